package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"
)

// demoCall is what the command of the demo did and saw.
type demoCall struct {
	Client string // what sent the request
	Held   string // what stood in its environment
	Status string
	Body   string
}

// call runs this program's client under "standin run", in a process of its own,
// as a user would run a command.
func (d *demonstration) call(target string) (demoCall, error) {
	var seen demoCall
	var out, errs bytes.Buffer
	cmd := &exec.Cmd{
		Path: d.self,
		Args: []string{os.Args[0], "run", "--home", d.dir, "--rules", d.rules(), "--receipt", d.receipt(), "--", d.self, demoClientCommand, target},
		Env:  append(withoutProxies(d.p.env), "DEMO_API_KEY=what the user had here before"), Stdout: &out, Stderr: &errs,
	}
	if err := cmd.Run(); err != nil {
		return seen, fmt.Errorf("demo: run the client: %w: %s", err, strings.TrimSpace(errs.String()))
	}
	if err := json.Unmarshal(out.Bytes(), &seen); err != nil {
		return seen, fmt.Errorf("demo: read what the client saw: %w", err)
	}
	return seen, nil
}

// withoutProxies keeps the user's own proxies and passphrases out of the demo.
func withoutProxies(env []string) []string {
	var kept []string
	for _, entry := range env {
		name, _, _ := strings.Cut(entry, "=")
		if !strings.HasSuffix(strings.ToLower(name), "_proxy") && !strings.HasPrefix(name, "STANDIN_") {
			kept = append(kept, entry)
		}
	}
	return kept
}

// demoClientCommand is the name by which this program is the demo's client.
const demoClientCommand = "demo-client"

func newDemoClientCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use: demoClientCommand + " URL", Hidden: true, Args: exactly("URL"),
		RunE: func(_ *cobra.Command, args []string) error {
			seen := demoCall{Held: p.getenv("DEMO_API_KEY")}
			err := p.demoCurl(&seen, args[0])
			if err != nil {
				err = p.demoGet(&seen, args[0])
			}
			if err != nil {
				return err
			}
			return json.NewEncoder(p.out).Encode(seen)
		},
	}
}

// demoCurl asks by curl, where it is installed.
func (p *program) demoCurl(seen *demoCall, target string) error {
	curl, err := exec.LookPath("curl")
	if err != nil {
		return err
	}
	seen.Client = "curl"
	// The header comes on standard input: arguments can be read by everybody.
	cmd := exec.Command(curl, "-sS", "-H", "@-", "-w", "\n%{http_code}", target)
	cmd.Stdin = strings.NewReader("Authorization: Bearer " + seen.Held + "\n")
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("demo: curl: %w", err)
	}
	text := strings.TrimSpace(string(out))
	cut := strings.LastIndexByte(text, '\n')
	seen.Status, seen.Body = text[cut+1:], strings.TrimSpace(text[:max(cut, 0)])
	return nil
}

// demoGet asks by Go's own client.
func (p *program) demoGet(seen *demoCall, target string) error {
	seen.Client = "a Go program"
	bundle, err := os.ReadFile(p.getenv("SSL_CERT_FILE"))
	if err != nil {
		return fmt.Errorf("demo: read $SSL_CERT_FILE: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	via, err := url.Parse(p.getenv("HTTPS_PROXY"))
	if err != nil {
		return fmt.Errorf("demo: read $HTTPS_PROXY: malformed")
	}
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(via), TLSClientConfig: &tls.Config{RootCAs: roots}}}
	req, err := http.NewRequest(http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+seen.Held)
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("demo: ask: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	seen.Status, seen.Body = fmt.Sprint(resp.StatusCode), strings.TrimSpace(string(body))
	return err
}
