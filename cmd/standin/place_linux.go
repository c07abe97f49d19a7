package main

import "os"

// here is where this process sees from, empty where /proc does not tell.
func here() place {
	network, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return place{}
	}
	processes, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return place{}
	}
	return place{network, processes}
}
