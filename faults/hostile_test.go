package faults_test

// hostiles are what this test program can be instead of a test, in a process of
// its own: see envHostile.
var hostiles = map[string]func(){}
