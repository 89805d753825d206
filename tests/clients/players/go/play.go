// Plays several streams at the same time and prints what the user of a library sees as JSON lines: the same as
// ../python/driver.py. A player defines play, which returns the error that ended its stream, and isOwn.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

var output sync.Mutex

func say(name, kind string, value any) {
	output.Lock()
	defer output.Unlock()
	line, _ := json.Marshal([]any{name, kind, value})
	fmt.Println(string(line))
}

func main() {
	seconds, err := time.ParseDuration(os.Getenv("PLAY_SECONDS") + "s")
	if err != nil {
		seconds = 20 * time.Second
	}
	var plays sync.WaitGroup
	for _, given := range os.Args[1:] {
		name, url, _ := strings.Cut(given, "=")
		plays.Add(1)
		go func() {
			defer plays.Done()
			err := play(url, "key-"+name, func(event string) { say(name, "event", event) })
			if err == nil {
				say(name, "end", nil)
				return
			}
			kind := fmt.Sprintf("%T", err)
			say(name, "error", map[string]any{"kind": kind, "text": err.Error(), "own": isOwn(err)})
		}()
	}
	done := make(chan struct{})
	go func() { plays.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(seconds):
	}
}
