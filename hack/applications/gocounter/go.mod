module gocounter

go 1.26.0
