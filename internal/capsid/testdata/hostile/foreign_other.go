//go:build !amd64

package main

import "errors"

func foreign() error { return errors.New("there are no foreign calls to make here") }
