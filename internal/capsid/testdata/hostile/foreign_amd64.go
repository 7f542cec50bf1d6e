package main

import "errors"

// number32 makes the system call number 20 of i386, getpid.
func number32() int32

func foreign() error {
	if number32() <= 0 {
		return errors.New("this kernel has no 32-bit calls")
	}
	return nil
}
