package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// report is what is printed and written in the end.
type report struct {
	short   bool
	started time.Time
	took    time.Duration
	results []*result
	notes   []string
}

// status is the last word on a check.
func (v verdict) status() string {
	switch {
	case v.unserved:
		return "not served yet"
	case v.met:
		return "met"
	}
	return "MISSED"
}

// table is the one table that is printed.
func (r *report) table() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tprogram\tCPU µs\t÷ base\tp50 ms\tp99 ms\ta second\tidle MiB\tpeak MiB")
	for _, result := range r.results {
		fmt.Fprintf(w, "%s\t%s\n", result.id, result.work)
		for _, f := range result.figures {
			fmt.Fprintf(w, "\t%s\n", strings.Join(result.cells(f), "\t"))
		}
		for _, v := range result.verdicts {
			fmt.Fprintf(w, "\t= %s: %s, target %s: %s\n", v.what, v.measured, v.target, v.status())
		}
		if result.failed != "" {
			fmt.Fprintf(w, "\t! standin: %s\n", result.failed)
		}
		for _, a := range result.absent {
			fmt.Fprintf(w, "\t- %s\n", a)
		}
	}
	_ = w.Flush()
	fmt.Fprintf(&b, "\n%s\n", r.how())
	for _, note := range r.notes {
		fmt.Fprintln(&b, note)
	}
	return b.String()
}

// cells are one program's figures. What was not measured is a dash.
func (r *result) cells(f figures) []string {
	cell := func(format string, value float64) string {
		if value == 0 {
			return "–"
		}
		return fmt.Sprintf(format, value)
	}
	ratio := ""
	if f.middle(cpuOf) > 0 && r.of(r.base).program != "" {
		ratio = fmt.Sprintf("%.2f", r.against(f.program, cpuOf))
	}
	return []string{
		f.program,
		cell("%.1f", f.middle(cpuOf)), ratio,
		cell("%.2f", f.middle(p50Of)/1000), cell("%.2f", f.middle(p99Of)/1000),
		cell("%.0f", f.middle(rateOf)),
		cell("%.1f", mib(f.idle.Now)), cell("%.1f", mib(f.peak.Peak)),
	}
}

// how says how much the figures are worth.
func (r *report) how() string {
	kind := "A full run"
	if r.short {
		kind = "A short run, for orientation only"
	}
	return fmt.Sprintf("%s of %s on %s, %d cores, %s, %s/%s; load average at its end %s.", kind, r.took.Round(time.Second),
		r.started.UTC().Format("2006-01-02"), runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH, loadAverage())
}

func loadAverage() string {
	data, err := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(data))
	if err != nil || len(fields) == 0 {
		return "unknown"
	}
	return fields[0]
}

const preface = `# Results

Made by ` + "`go run ./bench`" + `; do not edit. Standin with everything on (policy, durable record, scrubbing) and the
references ran as separate processes in one run, on loopback, in turn. What counts is the ratio of two
programs in the same round, and of these the median; machines differ, so no absolute figure is a claim.

- ` + "`tunnel`" + `: a blind CONNECT tunnel. ` + "`relay`" + `: ends TLS on both sides and copies bytes.
- ` + "`minimal`" + `: ` + "`net/http`" + ` on both sides, one header replaced; no policy, no record, no scrubbing, no body rewriting.
- ` + "`minimal-h2`" + `: the same with HTTP/2 towards the upstream. It is what I is compared with.

`

const method = `
## Figures

CPU is the time of the proxy's process for each request (for F: each event), in user and kernel mode. Peak memory is VmHWM, idle memory VmRSS before
the first request. The load client works in a closed loop and shares the cores with the upstream and the proxy, so latencies
are those of a machine that is busy. One durable write is a line appended and synced by one writer, between the rounds; p99 is compared with
the sum of both p99. In G the columns p50 and p99 are the median and the longest time from the start of the
process to the first answer, and CPU is what it used until then; in J they are what a run adds to the time of the command.

`

// markdown is RESULTS.md.
func (r *report) markdown() string {
	var b strings.Builder
	b.WriteString(preface)
	fmt.Fprintf(&b, "%s\n\n", r.headline())
	b.WriteString("| id | work | what | measured | ÷ reference | target | |\n|---|---|---|---|---|---|---|\n")
	for _, result := range r.results {
		for _, v := range result.verdicts {
			ratio := "–"
			if v.ratio > 0 {
				ratio = fmt.Sprintf("%.0f %%", v.ratio*100)
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s |\n", result.id, result.work, v.what, v.measured, ratio, v.target, v.status())
		}
	}
	b.WriteString(method)
	b.WriteString("| id | program | CPU µs | ÷ base | p50 ms | p99 ms | a second | idle MiB | peak MiB |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, result := range r.results {
		for _, f := range result.figures {
			fmt.Fprintf(&b, "| %s | %s |\n", result.id, strings.Join(result.cells(f), " | "))
		}
	}
	fmt.Fprintf(&b, "\n%s\n", r.how())
	for _, result := range r.results {
		if result.failed != "" {
			fmt.Fprintf(&b, "\n%s could not be measured with standin: %s\n", result.id, result.failed)
		}
		for _, a := range result.absent {
			fmt.Fprintf(&b, "\n%s: %s\n", result.id, a)
		}
	}
	for _, note := range r.notes {
		fmt.Fprintf(&b, "\n%s\n", note)
	}
	return b.String()
}

// headline counts the targets and names the ratios of CPU time, in percent.
func (r *report) headline() string {
	met, all, waiting := 0, 0, 0
	var ratios []string
	for _, result := range r.results {
		for _, v := range result.verdicts {
			switch {
			case v.unserved:
				waiting++
				continue
			case v.met:
				met++
			}
			all++
			if v.what == cpuTime && v.ratio > 0 {
				ratios = append(ratios, fmt.Sprintf("%s %.0f %%", result.id, v.ratio*100))
			}
		}
	}
	text := fmt.Sprintf("**%d of %d targets met", met, all)
	if waiting > 0 {
		text += fmt.Sprintf(", %d not served yet", waiting)
	}
	text += ".**"
	if len(ratios) > 0 {
		text += " CPU time of a request, the reference being 100 %: " + strings.Join(ratios, ", ") + "."
	}
	return text
}
