package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"strings"
	"time"

	"cell.network/cell/bench/report"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
)

// grpcHop is how one process reaches the next.
type grpcHop int

const (
	grpcUnix grpcHop = iota // a Unix socket without encryption
	grpcTLS                 // TCP with TLS 1.3
)

const grpcMethod = "/bench.Echo/Echo"

// grpcAddr is where a server listens and how to reach it.
type grpcAddr struct {
	Hop    grpcHop
	Target string
	Cert   []byte // PEM of the server's own certificate; nil without TLS
}

// grpcServer is what a server is told.
type grpcServer struct {
	Hop  grpcHop
	Dir  string
	Next *grpcAddr // where to pass requests on; nil: answer them
}

// grpcPart serves, or is a proxy.
func grpcPart(arg []byte) (any, func(), error) {
	var s grpcServer
	if err := json.Unmarshal(arg, &s); err != nil {
		return nil, nil, err
	}
	serve := func(_ context.Context, in []byte) ([]byte, error) { return in, nil }
	stopNext := func() {}
	if s.Next != nil {
		conn, err := s.Next.dial()
		if err != nil {
			return nil, nil, err
		}
		serve, stopNext = grpcCall(conn), func() { _ = conn.Close() }
	}
	options := []grpc.ServerOption{grpc.ForceServerCodecV2(bytesCodec{})}
	addr := grpcAddr{Hop: s.Hop}
	var l net.Listener
	switch s.Hop {
	case grpcUnix:
		f, err := os.CreateTemp(s.Dir, "grpc*.sock")
		if err != nil {
			return nil, nil, err
		}
		_ = f.Close()
		_ = os.Remove(f.Name())
		if l, err = net.Listen("unix", f.Name()); err != nil {
			return nil, nil, err
		}
		addr.Target = "unix:" + f.Name()
	case grpcTLS:
		cert, text, err := selfSigned()
		if err != nil {
			return nil, nil, err
		}
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return nil, nil, err
		}
		addr.Target, addr.Cert = l.Addr().String(), text
		options = append(options, grpc.Creds(credentials.NewServerTLSFromCert(&cert)))
	}
	server := grpc.NewServer(options...)
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "bench.Echo", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Echo", Handler: func(_ any, ctx context.Context, read func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var in []byte
			if err := read(&in); err != nil {
				return nil, err
			}
			return serve(ctx, in)
		}}},
	}, struct{}{})
	go func() { _ = server.Serve(l) }()
	return addr, func() { server.Stop(); stopNext() }, nil
}

func (a grpcAddr) dial() (*grpc.ClientConn, error) {
	c := insecure.NewCredentials()
	if a.Hop == grpcTLS {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(a.Cert) {
			return nil, errors.New("no certificate")
		}
		c = credentials.NewTLS(&tls.Config{RootCAs: pool, ServerName: "bench", MinVersion: tls.VersionTLS13})
	}
	return grpc.NewClient(a.Target, grpc.WithTransportCredentials(c), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(bytesCodec{})))
}

// grpcEcho calls a server over the last of hops; each one before it leads to a
// proxy that passes requests on, as the node does.
func grpcEcho(dir string, hops ...grpcHop) echoer {
	name := "gRPC-go " + grpc.Version + ", Unix socket"
	switch {
	case len(hops) == 2:
		name = "gRPC-go " + grpc.Version + ", 1 proxy"
	case len(hops) > 2:
		name = fmt.Sprintf("gRPC-go %s, %d proxies", grpc.Version, len(hops)-1)
	case hops[0] == grpcTLS:
		name = "gRPC-go " + grpc.Version + ", TCP and TLS"
	}
	e := echoer{name: name, close: func() {}}
	var next *grpcAddr
	for i := len(hops) - 1; i >= 0; i-- {
		var addr grpcAddr
		child, err := report.StartChild("grpc", grpcServer{hops[i], dir, next}, &addr)
		if err != nil {
			e.close()
			return absent(name, err)
		}
		rest := e.close
		e.close = func() { _ = child.Close(); rest() }
		e.cpu = append(e.cpu, child.CPU)
		next = &addr
	}
	conn, err := next.dial()
	if err != nil {
		e.close()
		return absent(name, err)
	}
	rest := e.close
	e.close, e.echo = func() { _ = conn.Close(); rest() }, grpcCall(conn)
	return e
}

func grpcCall(conn *grpc.ClientConn) func(context.Context, []byte) ([]byte, error) {
	return func(ctx context.Context, body []byte) ([]byte, error) {
		var out []byte
		err := conn.Invoke(ctx, grpcMethod, body, &out)
		return out, err
	}
}

// bytesCodec carries bytes as they are, so that gRPC does no more work on them
// than frames do.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "bytes" }

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("marshal %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("unmarshal %T", v)
	}
	*b = data.Materialize()
	return nil
}

// selfSigned makes a certificate for the name bench.
func selfSigned() (tls.Certificate, []byte, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, DNSNames: []string{"bench"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, k.Public(), k)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	var text strings.Builder
	if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
		return tls.Certificate{}, nil, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}, []byte(text.String()), nil
}
