module douane/bench/load

go 1.22
