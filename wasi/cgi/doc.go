// Package cgi serves HTTP with WebAssembly guests: every request runs a fresh
// instance, which gets the request as a CGI program does (RFC 3875) and keeps what
// it wants to keep on manykv.
//
// It promises that a guest gets the whole request, that its response reaches the
// client as it is written, and that one guest's failure is one request's: 502 if
// nothing has been sent, else the connection is cut, so that half a response is never
// taken for a whole one. Time, memory, the size of a request and the number of guests
// at once are bounded.
//
// It refuses requests beyond those bounds (413, 503), and gives no guest a HTTP_PROXY
// (which some programs take for their own setting).
package cgi
