// Command probeclient probes a port once, with the very code kubelet probes with, and prints
// the result as one line of JSON. "hook" and "hooks" ask as kubelet's HTTP and HTTPS lifecycle
// hooks do.
package main

import (
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"k8s.io/kubernetes/pkg/probe"
	grpcprobe "k8s.io/kubernetes/pkg/probe/grpc"
	httpprobe "k8s.io/kubernetes/pkg/probe/http"
	tcpprobe "k8s.io/kubernetes/pkg/probe/tcp"
)

type outcome struct {
	Result string `json:"result"`
	Output string `json:"output"`
}

func main() {
	kind := flag.String("kind", "", "tcp, http, https, grpc, hook or hooks")
	host := flag.String("host", "127.0.0.1", "address to probe")
	port := flag.Int("port", 0, "port to probe")
	path := flag.String("path", "/", "path of an HTTP request")
	timeout := flag.Duration("timeout", 5*time.Second, "bound of the probe")
	flag.Parse()
	result, output, err := run(*kind, *host, *port, *path, *timeout)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := json.NewEncoder(os.Stdout).Encode(outcome{string(result), output}); err != nil {
		os.Exit(1)
	}
}

func run(kind, host string, port int, path string, timeout time.Duration) (probe.Result, string, error) {
	target := &url.URL{Scheme: "http", Host: net.JoinHostPort(host, strconv.Itoa(port)), Path: path}
	switch kind {
	case "tcp":
		return tcpprobe.New().Probe(host, port, timeout)
	case "grpc":
		return grpcprobe.New().Probe(host, "", port, timeout)
	case "http", "https":
		target.Scheme = kind
		request, err := httpprobe.NewProbeRequest(target, nil)
		if err != nil {
			return probe.Unknown, "", err
		}
		return httpprobe.New(false).Probe(request, timeout)
	case "hook", "hooks":
		target.Scheme = map[string]string{"hook": "http", "hooks": "https"}[kind]
		return hook(target, timeout)
	}
	return probe.Unknown, "", fmt.Errorf("unknown kind %q", kind)
}

// hook asks with the client that kubelet makes for lifecycle hooks, which takes any response
// for success.
func hook(target *url.URL, timeout time.Duration) (probe.Result, string, error) {
	client := &http.Client{
		Timeout:       timeout,
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
		CheckRedirect: httpprobe.RedirectChecker(false),
	}
	request, err := http.NewRequest(http.MethodGet, target.String(), nil)
	if err != nil {
		return probe.Unknown, "", err
	}
	request.Header.Set("User-Agent", "kube-lifecycle/1.36")
	response, err := client.Do(request)
	if err != nil {
		return probe.Failure, err.Error(), nil
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 10<<10))
	return probe.Success, string(body), err
}
