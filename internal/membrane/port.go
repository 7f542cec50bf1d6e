package membrane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/ops"
)

// Pairer makes two connected ends.
type Pairer func() (net.Conn, net.Conn, error)

// PortConfig configures the node's side of one membrane. The zero value
// refuses all that the replica asks for.
type PortConfig struct {
	// OnConnect answers the replica's wish to call target, a reference to a
	// cell as its code has it. The connection is handed to the replica and
	// closed here. An error crosses as [frame.AsError] has it. ctx ends with
	// the link. nil refuses.
	OnConnect func(ctx context.Context, target string) (net.Conn, error)
	// Pair makes the connections on which the node itself calls the replica.
	// Default: SocketPair.
	Pair Pairer
	// MaxConnects limits the calls of OnConnect at once; more are answered with
	// Overloaded. Default: MaxConnects.
	MaxConnects int
}

// DefaultDrain is how long [Port.Drain] gives a replica where ctx has no deadline.
const DefaultDrain = 10 * time.Second

// maxPings limits the pings that wait for an answer.
const maxPings = 16

// Port is the node's side of the membrane of one replica.
type Port struct {
	link    Link
	cfg     PortConfig
	ctx     context.Context // ends with the link
	cancel  context.CancelFunc
	pings   waiters[ops.Stats]
	slots   chan struct{}  // one taken for each OnConnect in progress
	running sync.WaitGroup // one for each OnConnect in progress
	isReady chan struct{}  // closed when ready is set
	done    chan struct{}  // closed when all has ended

	ready ops.Ready // set before isReady is closed
	err   error     // set before done is closed
}

// NewPort takes over the node's side of a link.
func NewPort(link Link, cfg PortConfig) *Port {
	if cfg.Pair == nil {
		cfg.Pair = SocketPair
	}
	if cfg.MaxConnects <= 0 {
		cfg.MaxConnects = MaxConnects
	}
	p := &Port{
		link: link, cfg: cfg,
		pings:   waiters[ops.Stats]{limit: maxPings},
		slots:   make(chan struct{}, cfg.MaxConnects),
		isReady: make(chan struct{}),
		done:    make(chan struct{}),
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	go func() {
		p.err = p.run()
		p.cancel()
		p.link.Close()
		p.running.Wait()
		close(p.done)
	}()
	return p
}

// run listens to the replica, which is not trusted, until the link ends.
func (p *Port) run() error {
	for {
		msg, ends, err := p.link.Recv()
		if err != nil {
			return err
		}
		if len(ends) > 0 {
			closeAll(ends)
			return fmt.Errorf("%w: the replica sent a connection", ErrLink)
		}
		m, err := ops.Parse(msg)
		if errors.Is(err, ops.ErrUnknown) {
			continue
		}
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case ops.Ready:
			err = p.setReady(m)
		case ops.Connect:
			err = p.connect(m)
		case ops.Pong:
			p.pings.answer(m.Seq, m.Stats)
		default:
			err = fmt.Errorf("%w: a replica does not send %T", ErrLink, m)
		}
		if err != nil {
			return err
		}
	}
}

func (p *Port) setReady(m ops.Ready) error {
	select {
	case <-p.isReady:
		return fmt.Errorf("%w: the replica was ready before", ErrLink)
	default:
	}
	for _, name := range m.Methods {
		if err := identity.CheckMethod(name); err != nil {
			return fmt.Errorf("%w: %w", ErrLink, err)
		}
	}
	p.ready = m
	close(p.isReady)
	return nil
}

func (p *Port) connect(m ops.Connect) error {
	if p.cfg.OnConnect == nil {
		return p.refuse(m, &frame.Error{Code: frame.Refused, Message: "this replica may call no other cells"})
	}
	select {
	case p.slots <- struct{}{}:
	default:
		return p.refuse(m, &frame.Error{Code: frame.Overloaded, Message: fmt.Sprintf("%d requests for a connection are in progress, no more are allowed", p.cfg.MaxConnects)})
	}
	p.running.Go(func() {
		defer func() { <-p.slots }()
		conn, err := p.cfg.OnConnect(p.ctx, m.Target)
		if err == nil {
			err = send(p.link, ops.Connected{Seq: m.Seq}, conn)
		}
		if err != nil {
			p.refuse(m, err) // where even that fails the link is closed, which the loop sees
		}
	})
	return nil
}

func (p *Port) refuse(m ops.Connect, err error) error {
	e := frame.AsError(err).Clip()
	return send(p.link, ops.Connected{Seq: m.Seq, Code: uint32(e.Code), Message: e.Message, Hint: e.Hint})
}

// WaitReady returns what the replica serves, as soon as it does.
func (p *Port) WaitReady(ctx context.Context) (ops.Ready, error) {
	select {
	case <-p.isReady:
		return p.ready, nil
	case <-p.done:
		return ops.Ready{}, fmt.Errorf("the replica ended before it was ready: %w", p.err)
	case <-ctx.Done():
		return ops.Ready{}, fmt.Errorf("wait for the replica: %w", ctx.Err())
	}
}

// Dial opens a connection on which the node calls the replica. Close it when
// done; it ends with the replica.
func (p *Port) Dial(ctx context.Context) (*frame.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("dial replica: %w", err)
	}
	near, far, err := p.cfg.Pair()
	if err != nil {
		return nil, fmt.Errorf("dial replica: %w", err)
	}
	if err := p.Hand(far); err != nil {
		near.Close()
		return nil, fmt.Errorf("dial replica: %w", err)
	}
	return frame.NewConn(near, frame.Config{}), nil
}

// Hand gives the replica a connection on which others call it. conn is closed
// on this side, also where it fails.
func (p *Port) Hand(conn net.Conn) error { return send(p.link, ops.Serve{}, conn) }

// Ping asks the replica for its counters and measures how long that takes.
func (p *Port) Ping(ctx context.Context) (ops.Stats, time.Duration, error) {
	start := time.Now()
	seq, answer, ok := p.pings.ask()
	if !ok {
		return ops.Stats{}, 0, fmt.Errorf("ping replica: %d pings have no answer yet", maxPings)
	}
	defer p.pings.forget(seq)
	if err := send(p.link, ops.Ping{Seq: seq}); err != nil {
		return ops.Stats{}, 0, fmt.Errorf("ping replica: %w", err)
	}
	select {
	case s := <-answer:
		return s, time.Since(start), nil
	case <-p.done:
		return ops.Stats{}, 0, fmt.Errorf("ping replica: %w", p.err)
	case <-ctx.Done():
		return ops.Stats{}, 0, fmt.Errorf("ping replica: %w", ctx.Err())
	}
}

// Drain asks the replica to finish the calls in flight and to exit, and waits
// until it has, or until ctx ends. It gives the replica the time that ctx has
// left, DefaultDrain where that is without end.
func (p *Port) Drain(ctx context.Context) error {
	left := DefaultDrain
	if deadline, ok := ctx.Deadline(); ok {
		left = max(time.Until(deadline), 0)
	}
	if err := send(p.link, ops.Drain{Milliseconds: uint64(left.Milliseconds())}); err != nil {
		return fmt.Errorf("drain replica: %w", err)
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("drain replica: %w", ctx.Err())
	}
}

// Stop asks the replica to exit at once. Done tells when its link has ended;
// whoever started the process must see that it obeys.
func (p *Port) Stop() error {
	if err := send(p.link, ops.Stop{}); err != nil {
		return fmt.Errorf("stop replica: %w", err)
	}
	return nil
}

// Done is closed when the link has ended; [Port.Err] then says why.
func (p *Port) Done() <-chan struct{} { return p.done }

// Err returns nil while the link lives, then why it ended: io.EOF where the
// replica closed it or died, [ErrClosed] after [Port.Close], [ErrLink] and
// ops.ErrMalformed where the replica broke the rules.
func (p *Port) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Close ends the link, at which the replica exits, and waits for OnConnect to return.
func (p *Port) Close() error {
	p.link.Close()
	<-p.done
	return nil
}
