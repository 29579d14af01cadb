//go:build !race

package wasi

const raceDetector = false
