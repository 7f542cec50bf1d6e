module github.com/fxamacker/cbor/v2

go 1.24

require github.com/x448/float16 v0.8.4

retract v2.9.5 // Tagged from wrong branch. Use v2.9.6 or later.
