package record

import (
	"bytes"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"fmt"

	"cell.network/cell/internal/identity"
)

// The armour of an SSH signature and what is in it: see PROTOCOL.sshsig of OpenSSH.
const (
	sigBegin     = "-----BEGIN SSH SIGNATURE-----\n"
	sigEnd       = "-----END SSH SIGNATURE-----\n"
	sigWidth     = 70 // characters of base64 on a line
	sigMagic     = "SSHSIG"
	sigNamespace = "git"
	sigHash      = "sha512"
	sigAlgorithm = "ssh-ed25519"
)

func sshPrincipal(author identity.Key) string { return author.String() + "@cell" }

func sshPublic(author identity.Key) string {
	return sigAlgorithm + " " + base64.StdEncoding.EncodeToString(sshStrings(sigAlgorithm, string(author[:])))
}

// sshStrings writes texts as SSH does, each after its length.
func sshStrings(texts ...string) []byte {
	var b []byte
	for _, t := range texts {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(t))), t...)
	}
	return b
}

// sshSigned is what an SSH key signs in order to sign msg.
func sshSigned(msg []byte) []byte {
	sum := sha512.Sum512(msg)
	return append([]byte(sigMagic), sshStrings(sigNamespace, "", sigHash, string(sum[:]))...)
}

// sigHead is everything in front of the 64 bytes of an author's signature.
func sigHead(author identity.Key) []byte {
	b := append([]byte(sigMagic), 0, 0, 0, 1)
	b = append(b, sshStrings(string(sshStrings(sigAlgorithm, string(author[:]))), sigNamespace, "", sigHash)...)
	sig := append(sshStrings(sigAlgorithm), 0, 0, 0, identity.SignatureSize)
	b = binary.BigEndian.AppendUint32(b, uint32(len(sig)+identity.SignatureSize))
	return append(b, sig...)
}

func armour(author identity.Key, sig []byte) []byte {
	text := []byte(base64.StdEncoding.EncodeToString(append(sigHead(author), sig...)))
	b := []byte(sigBegin)
	for len(text) > 0 {
		n := min(sigWidth, len(text))
		b = append(append(b, text[:n]...), '\n')
		text = text[n:]
	}
	return append(b, sigEnd...)
}

// unarmour returns the 64 bytes of a signature that armour wrote for author.
func unarmour(author identity.Key, text []byte) ([]byte, error) {
	inner := bytes.TrimSuffix(bytes.TrimPrefix(text, []byte(sigBegin)), []byte(sigEnd))
	blob, err := base64.StdEncoding.DecodeString(string(inner)) // skips newlines
	head := sigHead(author)
	if err != nil || len(blob) != len(head)+identity.SignatureSize {
		return nil, fmt.Errorf("%w: no SSH signature by an Ed25519 key", ErrMalformed)
	}
	sig := blob[len(head):]
	if !bytes.Equal(armour(author, sig), text) {
		if !bytes.HasPrefix(blob, head) {
			return nil, fmt.Errorf("%w: not by the author's key for git", ErrSignature)
		}
		return nil, fmt.Errorf("%w: SSH signature with a form of its own", ErrMalformed)
	}
	return sig, nil
}
