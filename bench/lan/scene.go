package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"testing/synctest"
)

const sceneArg = "scene" // first argument of a child; what it is to play follows

// perform plays a crowd in a child of this program, in virtual time.
func perform(ctx context.Context, c crowd) (outcome, error) {
	self, err := os.Executable()
	if err != nil {
		return outcome{}, err
	}
	text, err := json.Marshal(c)
	if err != nil {
		return outcome{}, err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return outcome{}, err
	}
	defer read.Close()
	child := exec.CommandContext(ctx, self, sceneArg, string(text))
	child.Stderr, child.ExtraFiles = os.Stderr, []*os.File{write} // stdout is package testing's
	err = child.Start()
	_ = write.Close()
	if err != nil {
		return outcome{}, err
	}
	var o outcome
	err = json.NewDecoder(read).Decode(&o)
	if err = errors.Join(err, child.Wait()); err == nil && o.Error != "" {
		err = errors.New(o.Error)
	}
	return o, err
}

// playScene plays the crowd that this process was started for and does not
// return; in the process that started it all it returns at once.
//
// Virtual time needs a *testing.T, which only package testing makes.
// testing.Main is what it keeps for programs that imitate go test.
func playScene() {
	if len(os.Args) != 3 || os.Args[1] != sceneArg {
		return
	}
	var c crowd
	if err := json.Unmarshal([]byte(os.Args[2]), &c); err != nil {
		fmt.Fprintln(os.Stderr, "lan: scene:", err)
		os.Exit(2)
	}
	os.Args = os.Args[:1] // flags of package testing: none
	out := os.NewFile(3, "outcome")
	testing.Main(func(string, string) (bool, error) { return true, nil }, []testing.InternalTest{{Name: "scene", F: func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			if err := json.NewEncoder(out).Encode(c.play()); err != nil {
				t.Error(err)
			}
		})
	}}}, nil, nil)
}
