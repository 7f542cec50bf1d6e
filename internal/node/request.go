package node

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

func (c *Client) get(ctx context.Context, path string, into any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTimeout, errSilent)
	defer cancel()
	err := c.ask(ctx, http.MethodGet, path, nil, into)
	if err != nil && errors.Is(context.Cause(ctx), errSilent) {
		return errSilent
	}
	return err
}

// ask sends a request and reads its answer, one JSON object.
func (c *Client) ask(ctx context.Context, method, path string, body, into any) error {
	res, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(into); err != nil {
		return c.explain(fmt.Errorf("read answer: %w", err))
	}
	return nil
}

func (c *Client) post(ctx context.Context, path string, body any) error {
	res, err := c.do(ctx, http.MethodPost, path, body)
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// stream reads an answer of one JSON object a line. It ends after an error.
func stream[T any](ctx context.Context, c *Client, method, path string, body any) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var zero T
		res, err := c.do(ctx, method, path, body)
		if err != nil {
			yield(zero, err)
			return
		}
		defer res.Body.Close()
		lines := bufio.NewScanner(res.Body)
		lines.Buffer(nil, maxLine)
		for lines.Scan() {
			if len(bytes.TrimSpace(lines.Bytes())) == 0 {
				continue
			}
			var v T
			if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
				yield(zero, c.explain(fmt.Errorf("read answer: %w", err)))
				return
			}
			if !yield(v, nil) {
				return
			}
		}
		if err := lines.Err(); err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			yield(zero, c.explain(err))
		}
	}
}

// do sends a request and returns its answer, unless that is an error.
func (c *Client) do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	req, err := c.request(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(err)
	}
	if err := check(res, http.StatusOK); err != nil {
		res.Body.Close()
		return nil, c.explain(err)
	}
	return res, nil
}

func (c *Client) request(ctx context.Context, method, path string, body any) (*http.Request, error) {
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		content = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://cell"+path, content)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set(HeaderProtocol, strconv.Itoa(Protocol))
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}

// check turns an answer other than a success into an error.
func check(res *http.Response, want int) error {
	if got := res.Header.Get(HeaderProtocol); got != strconv.Itoa(Protocol) {
		return NewError(CodeVersion, fmt.Sprintf("the node speaks control protocol %q, this program %d", got, Protocol),
			"use the cell program that started the node, or restart it: cell down, then cell up")
	}
	if res.StatusCode == want || want == http.StatusOK && res.StatusCode/100 == 2 {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, maxLine))
	if err != nil {
		return err
	}
	var body ErrorBody
	if json.Unmarshal(text, &body) == nil && body.Error != nil && body.Error.Message != "" {
		if body.Error.Exit == 0 {
			body.Error.Exit = NewError(body.Error.Code, "", "").Exit
		}
		return body.Error
	}
	message := strings.TrimSpace(string(text[:min(len(text), 512)]))
	return NewError(CodeFailed, fmt.Sprintf("the node answered %s: %s", res.Status, message), "")
}

func query(pairs ...string) string {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			v.Set(pairs[i], pairs[i+1])
		}
	}
	return v.Encode()
}

func flag(on bool) string {
	if on {
		return "1"
	}
	return ""
}
