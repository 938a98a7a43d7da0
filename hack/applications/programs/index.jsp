<%@ page contentType="application/json" session="false" trimDirectiveWhitespaces="true"
    import="java.util.UUID, java.util.concurrent.atomic.AtomicLong" %>
<%!
    // One servlet a server process: it answers as counting.py says.
    private final String identity = ProcessHandle.current().pid() + "-" + UUID.randomUUID();
    private final AtomicLong count = new AtomicLong();
%>
<%
    String path = String.valueOf(request.getAttribute("jakarta.servlet.forward.request_uri"));
    path = path.equals("null") ? request.getRequestURI() : path;
    String more = path.endsWith("/count") ? ", \"count\": " + count.incrementAndGet() : "";
    if (path.endsWith("/state")) more = ", \"state\": \"\"";
    out.print("{\"identity\": \"" + identity + "\"" + more + "}");
%>
