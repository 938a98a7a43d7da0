// A server of Node.js that answers as counting.py says.  node counter.js PORT
const http = require("node:http");
const identity = `${process.pid}-${require("node:crypto").randomBytes(8).toString("hex")}`;
let count = 0;

const server = http.createServer((request, response) => {
  const said = { identity };
  if (request.url === "/count") said.count = ++count;
  if (request.url === "/state") said.state = "";
  response.setHeader("Content-Type", "application/json");
  response.end(JSON.stringify(said));
});
server.keepAliveTimeout = 75000;
server.listen(Number(process.argv[2]), "::");
