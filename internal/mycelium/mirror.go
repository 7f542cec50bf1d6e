package mycelium

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"cell.network/cell/internal/identity"
)

// Mirror copies releases from git repositories that are no nodes.
type Mirror interface {
	// Copy makes at dir, which does not exist, a bare git repository with the
	// newest tags refs/tags/cell/<name>/* of the repository at url, and the
	// commits that they lead to. Nothing that it brings is believed.
	Copy(ctx context.Context, url string, c identity.Cell, dir string) error
}

// ErrMirror says that a mirror has a URL of a kind that is not fetched from.
var ErrMirror = errors.New("not a mirror's URL")

const (
	mirrorTags  = 4 // newest tags that are copied
	mirrorTime  = 5 * time.Minute
	mirrorBytes = 128 << 20 // of any file that git writes
	mirrorCPU   = 60        // seconds, of git and what it starts each
)

// GitMirror is a [Mirror] that uses the git command, without any settings, keys
// or hooks of the user.
type GitMirror struct {
	Git     string   // default "git"
	Schemes []string // default "https"
}

// Copy implements Mirror.
func (m GitMirror) Copy(ctx context.Context, url string, c identity.Cell, dir string) error {
	schemes := m.Schemes
	if len(schemes) == 0 {
		schemes = []string{"https"}
	}
	if s, _, ok := strings.Cut(url, "://"); !ok || !slices.Contains(schemes, s) {
		return fmt.Errorf("%w: %.200q", ErrMirror, url)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, mirrorTime, errors.New("the mirror takes too long"))
	defer cancel()
	g := git{cmp.Or(m.Git, "git")}
	prefix := "refs/tags/cell/" + string(c.Name) + "/"
	out, err := m.run(ctx, g, schemes, "", "ls-remote", "--refs", "--quiet", "--", url, prefix+"*")
	if err != nil {
		return err
	}
	var seqs []uint64
	for line := range strings.Lines(out) {
		_, ref, _ := strings.Cut(strings.TrimSpace(line), "\t")
		n, is := strings.CutPrefix(ref, prefix)
		if seq, err := strconv.ParseUint(n, 10, 63); is && err == nil {
			seqs = append(seqs, seq)
		}
	}
	if len(seqs) == 0 {
		return ErrNone
	}
	slices.Sort(seqs)
	if _, err := m.run(ctx, g, schemes, "", "init", "--quiet", "--bare", "--template=", "--object-format=sha1", dir); err != nil {
		return err
	}
	args := []string{"fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head", "--no-auto-maintenance", "--", url}
	for _, seq := range seqs[max(0, len(seqs)-mirrorTags):] {
		ref := prefix + strconv.FormatUint(seq, 10)
		args = append(args, "+"+ref+":"+ref)
	}
	_, err = m.run(ctx, g, schemes, dir, args...)
	return err
}

// run runs git under limits that the shell sets.
func (m GitMirror) run(ctx context.Context, g git, schemes []string, dir string, args ...string) (string, error) {
	cmd, err := g.command(ctx, dir, false, args...)
	if err != nil {
		return "", err
	}
	shell, err := exec.LookPath("sh")
	if err != nil {
		return "", fmt.Errorf("limit git: %w", err)
	}
	limits := fmt.Sprintf(`ulimit -c 0; ulimit -f %d && ulimit -t %d && exec "$@"`, mirrorBytes/512, mirrorCPU)
	cmd.Args = append([]string{"sh", "-c", limits, "git", cmd.Path}, cmd.Args[1:]...)
	cmd.Path = shell
	cmd.Env = append(cmd.Env, "GIT_ALLOW_PROTOCOL="+strings.Join(schemes, ":"))
	return runGit(ctx, cmd, nil, args[0])
}
