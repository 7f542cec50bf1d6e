package cell

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/home"
)

// maxAnswer bounds what is read of a node's answer to the upgrade, in bytes.
const maxAnswer = 16 << 10

// upgrade asks a node's control socket to carry frames from here on.
const upgrade = "POST /v1/connect HTTP/1.1\r\nHost: cell\r\nCell-Protocol: 1\r\nConnection: Upgrade\r\nUpgrade: cell-frame/1\r\nContent-Length: 0\r\n\r\n"

// dialNode connects a program that is no replica with the node of its machine.
func dialNode(ctx context.Context, _ string) (*frame.Conn, error) {
	where, err := home.Locate(os.Getenv)
	if err != nil {
		return nil, Errorf(NotSent, "%w", err)
	}
	if err := where.CheckRuntime(); err != nil {
		return nil, Errorf(Refused, "reach the node: %w", err)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", where.Socket())
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED):
		return nil, &Error{Code: NotSent, Message: "no node is running on this machine", Hint: "start it with: cell up"}
	case err != nil:
		return nil, Errorf(NotSent, "reach the node: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	rest, err := shake(conn)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return frame.NewConn(upgraded{conn, io.MultiReader(bytes.NewReader(rest), conn)}, frame.Config{}), nil
}

// upgraded is a connection of which some bytes were read too early.
type upgraded struct {
	net.Conn
	r io.Reader
}

func (u upgraded) Read(b []byte) (int, error) { return u.r.Read(b) }

// shake asks for the upgrade and returns the bytes that came after the answer.
func shake(conn net.Conn) ([]byte, error) {
	if _, err := io.WriteString(conn, upgrade); err != nil {
		return nil, Errorf(NotSent, "reach the node: %w", err)
	}
	r := bufio.NewReader(io.LimitReader(conn, maxAnswer))
	status, length, err := readHead(r)
	if err != nil {
		return nil, Errorf(NotSent, "read the node's answer: %w", err)
	}
	if status == 101 {
		rest, _ := r.Peek(r.Buffered())
		return rest, nil
	}
	body, _ := io.ReadAll(io.LimitReader(r, int64(length)))
	return nil, refusal(status, body)
}

// readHead reads the status line and the header fields of an HTTP response.
func readHead(r *bufio.Reader) (status, length int, err error) {
	line, err := readLine(r)
	if err != nil {
		return 0, 0, err
	}
	version, rest, _ := strings.Cut(line, " ")
	code, _, _ := strings.Cut(rest, " ")
	status, err = strconv.Atoi(code)
	if err != nil || !strings.HasPrefix(version, "HTTP/1.") {
		return 0, 0, fmt.Errorf("it is not HTTP: %.40q", line)
	}
	for {
		line, err := readLine(r)
		if err != nil || line == "" {
			return status, length, err
		}
		name, value, _ := strings.Cut(line, ":")
		if strings.EqualFold(name, "Content-Length") {
			if length, err = strconv.Atoi(strings.TrimSpace(value)); err != nil || length < 0 {
				return 0, 0, fmt.Errorf("content length %.20q", value)
			}
		}
	}
}

func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return strings.TrimRight(string(line), "\r\n"), err
}

// refusal reads the reason out of the node's answer: an error of the control API, or plain text.
func refusal(status int, body []byte) error {
	var api struct {
		Error struct{ Message, Hint string }
	}
	e := &Error{Code: Refused, Message: strings.TrimSpace(string(body))}
	if json.Unmarshal(body, &api) == nil && api.Error.Message != "" {
		e.Message, e.Hint = api.Error.Message, api.Error.Hint
	}
	if e.Message == "" {
		e.Message = fmt.Sprintf("the node answered with status %d", status)
	}
	return e.Clip()
}
