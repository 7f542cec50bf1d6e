package report

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// Env is where and when a run took place. Load says how busy the machine was
// besides: figures of two runs compare only where it is low.
type Env struct {
	Time   time.Time `json:"time"`
	Go     string    `json:"go"`
	OS     string    `json:"os"`
	Arch   string    `json:"arch"`
	CPU    string    `json:"cpu"`
	Cores  int       `json:"cores"`
	Seed   uint64    `json:"seed"`
	Short  bool      `json:"short"`
	Load   float64   `json:"load"`     // average of the minute before the run; -1: not known
	Took   float64   `json:"took_s"`   // of the whole run, in seconds
	Others float64   `json:"others_s"` // CPU seconds that other programs used meanwhile; -1: not known

	began      time.Time
	total, own time.Duration // CPU time at the start
}

// Start looks at the machine before a run.
func Start(seed uint64, short bool) Env {
	return Env{
		Time: time.Now().UTC().Truncate(time.Second), Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH,
		CPU: cpuModel(), Cores: runtime.NumCPU(), Seed: seed, Short: short, Load: loadAverage(),
		began: time.Now(), total: machineCPU(), own: treeCPU(),
	}
}

// End completes Env after a run. Children must have been waited for.
func (e *Env) End() {
	e.Took = time.Since(e.began).Seconds()
	e.Others = -1
	if total := machineCPU(); total > 0 {
		e.Others = max(0, (total - e.total - (treeCPU() - e.own)).Seconds())
	}
}

// String is one line for people.
func (e Env) String() string {
	size := "full"
	if e.Short {
		size = "short"
	}
	s := fmt.Sprintf("%s, %s/%s, %s, %d cores, seed %d, %s size, load before %.2f", e.Go, e.OS, e.Arch, e.CPU, e.Cores, e.Seed, size, e.Load)
	if e.Took > 0 {
		s += fmt.Sprintf(", took %.0f s", e.Took)
	}
	if e.Took > 0 && e.Others >= 0 {
		s += fmt.Sprintf(", other programs used %.0f %% of the machine", 100*e.Others/e.Took/float64(e.Cores))
	}
	return s
}

func loadAverage() float64 {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return -1
	}
	first, _, _ := strings.Cut(string(b), " ")
	v, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return -1
	}
	return v
}

func cpuModel() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown CPU"
}
