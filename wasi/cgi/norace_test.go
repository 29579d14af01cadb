//go:build !race

package cgi

const raceDetector = false
