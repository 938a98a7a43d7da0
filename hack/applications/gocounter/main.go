// A server of Go's standard library that answers as counting.py says, on port 8080. What it is given
// no address for, it listens to by MPTCP: the default since Go 1.24.
package main

import (
	"crypto/rand"
	"encoding/json"
	"log"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
)

func main() {
	if len(os.Args) > 1 {
		os.Stdout.WriteString("Go " + strings.TrimPrefix(runtime.Version(), "go") + "\n")
		return
	}
	identity := strconv.Itoa(os.Getpid()) + "-" + rand.Text()
	var count atomic.Int64
	answer := func(w http.ResponseWriter, said map[string]any) {
		said["identity"] = identity
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(said)
	}
	http.HandleFunc("/count", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"count": count.Add(1)})
	})
	http.HandleFunc("/state", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"state": ""})
	})
	log.Fatal(http.ListenAndServe(":8080", nil))
}
