//go:build wasip1

// Command guestbook is a web application as a WebAssembly guest: `manykv wasm serve`
// runs an instance of it for each request, as CGI. Nothing is kept in memory from one
// request to the next: all of it is in the bucket that the guest opens as "".
//
//	entries          how many there are, a counter
//	visits           how often the page was read, a counter
//	entry/000000017  the 17th entry, as JSON
package main

import (
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"net/http/cgi"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/manykv/manykv/wasi/guest"
)

const (
	shown    = 20 // entries of a page
	maxName  = 60 // characters
	maxText  = 1000
	maxForm  = 16 << 10 // bytes
	counted  = "entries"
	visited  = "visits"
	keyOfAny = "entry/%09d"
)

type entry struct {
	Number int64     `json:"number"`
	Name   string    `json:"name"`
	Text   string    `json:"text"`
	Time   time.Time `json:"time"`
}

func main() {
	b, err := guest.Open("")
	if err == nil {
		err = cgi.Serve(book{b})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "guestbook:", err)
		os.Exit(1)
	}
}

// book is the application.
type book struct{ b *guest.Bucket }

func (g book) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method + " " + r.URL.Path {
	case "GET /", "HEAD /":
		g.page(w)
	case "GET /entries.json":
		g.list(w)
	case "POST /":
		g.add(w, r)
	default:
		http.Error(w, "there is GET /, GET /entries.json and POST /", http.StatusNotFound)
	}
}

// newest reads the newest entries: the counter, then all of them in one batch.
func (g book) newest() ([]entry, error) {
	value, _, err := g.b.Get(counted)
	if err != nil {
		return nil, err
	}
	last, _ := strconv.ParseInt(string(value), 10, 64) // an absent counter is 0
	var keys []string
	for n := last; n > 0 && n > last-shown; n-- {
		keys = append(keys, fmt.Sprintf(keyOfAny, n))
	}
	pairs, err := g.b.GetMany(keys)
	if err != nil {
		return nil, err
	}
	entries := []entry{}
	for _, p := range pairs {
		var e entry
		if p == nil || json.Unmarshal(p.Value, &e) != nil {
			continue // its number was taken, but it is not written yet
		}
		entries = append(entries, e)
	}
	return entries, nil
}

func (g book) page(w http.ResponseWriter) {
	entries, err := g.newest()
	visits := int64(0)
	if err == nil {
		visits, err = g.b.Increment(visited, 1)
	}
	if err != nil {
		failed(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'")
	if err := page.Execute(w, map[string]any{"Entries": entries, "Visits": visits, "MaxName": maxName, "MaxText": maxText}); err != nil {
		fmt.Fprintln(os.Stderr, "guestbook:", err)
	}
}

func (g book) list(w http.ResponseWriter) {
	entries, err := g.newest()
	if err != nil {
		failed(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(entries) // the client has gone
}

// add takes a number and writes the entry under it.
func (g book) add(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	e := entry{Name: strings.TrimSpace(r.FormValue("name")), Text: strings.TrimSpace(r.FormValue("text")), Time: time.Now().UTC()}
	if n, t := len([]rune(e.Name)), len([]rune(e.Text)); n == 0 || n > maxName || t == 0 || t > maxText {
		http.Error(w, fmt.Sprintf("a name of %d and a text of %d characters, 1 to %d and 1 to %d are allowed", n, t, maxName, maxText), http.StatusBadRequest)
		return
	}
	var err error
	if e.Number, err = g.b.Increment(counted, 1); err == nil {
		var value []byte
		if value, err = json.Marshal(e); err == nil {
			err = g.b.Set(fmt.Sprintf(keyOfAny, e.Number), value)
		}
	}
	if err != nil {
		failed(w, err)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func failed(w http.ResponseWriter, err error) {
	fmt.Fprintln(os.Stderr, "guestbook:", err)
	http.Error(w, "the store has a problem", http.StatusServiceUnavailable)
}

var page = template.Must(template.New("page").Parse(`<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>Guestbook</title>
<style>body{font:16px/1.5 sans-serif;max-width:40em;margin:2em auto;padding:0 1em}article{border-top:1px solid #ccc;padding:.5em 0;overflow-wrap:anywhere}
small{color:#666}textarea,input{width:100%;box-sizing:border-box;font:inherit}</style>
<h1>Guestbook</h1>
<form method="post" action="/">
<p><label>Name <input name="name" maxlength="{{.MaxName}}" required></label>
<p><label>Text <textarea name="text" rows="3" maxlength="{{.MaxText}}" required></textarea></label>
<p><button>Sign</button>
</form>
{{range .Entries}}<article><b>{{.Name}}</b> <small>no. {{.Number}}, {{.Time.Format "2 January 2006 15:04 MST"}}</small><p>{{.Text}}</article>
{{else}}<p>Nobody has signed yet.
{{end}}<p><small>Read {{.Visits}} times.</small>
</html>
`))
