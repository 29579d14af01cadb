// Package cgi serves HTTP with WebAssembly guests: every request runs a fresh
// instance, which gets the request as a CGI program does (RFC 3875) and keeps what
// it wants to keep on manykv.
//
// It promises that a guest gets the whole request, that its response reaches the
// client as it is written, and that one guest's failure is one request's: 502 if
// nothing has been sent, else the connection is cut, so that half a response is never
// taken for a whole one. Time, memory, the size of a request and of all of them, and
// the number of guests at once are bounded. A request's body is read before its guest
// takes a place; a response is written while the guest has it.
//
// It refuses requests beyond those bounds (408, 413, 431, 503), and gives no guest a
// HTTP_PROXY (which some programs take for their own setting).
package cgi
