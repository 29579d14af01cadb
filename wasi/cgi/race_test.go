//go:build race

package cgi

// raceDetector makes compiling a guest, and a cluster, ten times slower.
const raceDetector = true
