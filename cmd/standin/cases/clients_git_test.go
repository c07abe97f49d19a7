//go:build linux

package cases

import (
	"bytes"
	"crypto/rand"
	"io"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const gitHost = "git.allowed.test"

func clientsOfGit() []client {
	return []client{
		{"git clones and pushes to a private repository", []string{"git"}, gitPrivate},
		{"git takes its credential from the session only", []string{"git"}, gitCredential},
	}
}

// forge serves a private repository by git's own program: whoever does not
// show the real token is asked for it.
func (c *Case) forge() *Upstream {
	c.Helper()
	out, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		c.Fatal(err)
	}
	backend := filepath.Join(strings.TrimSpace(string(out)), "git-http-backend")
	if _, err := os.Stat(backend); err != nil {
		c.Skipf("git-http-backend is not installed: %v", err)
	}
	root := filepath.Join(c.Dir, "forge")
	c.git(c.Dir, "init", "-q", "--bare", filepath.Join(root, "private.git"))
	handler := &cgi.Handler{
		Path: backend, Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=me"}, Stderr: io.Discard,
	}
	c.Rules.Add("{name: git, hosts: [" + gitHost + "], substitute: [{secret: github, in: basic password}]}")
	return c.Upstream(gitHost+":443", Serve{TLS: c.Certificate(gitHost), Handler: func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if _, password, ok := r.BasicAuth(); !ok || password != R {
			w.Header().Set("WWW-Authenticate", `Basic realm="forge"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		// CGI knows no body of unknown length.
		r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
		handler.ServeHTTP(w, r)
	}})
}

// git runs git outside of any session.
func (c *Case) git(dir string, args ...string) {
	c.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(plainEnvironment(c.Temp), "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
	if out, err := cmd.CombinedOutput(); err != nil {
		c.Fatalf("git %q: %v\n%s", args, err, out)
	}
}

func gitPrivate(c *Case) {
	u := c.forge()
	// Three megabytes that do not compress.
	work := filepath.Join(c.Dir, "work")
	big := make([]byte, 3<<20)
	_, _ = rand.Read(big)
	c.git(c.Dir, "init", "-q", "-b", "main", work)
	if err := os.WriteFile(filepath.Join(work, "big"), big, 0o600); err != nil {
		c.Fatal(err)
	}
	c.git(work, "add", "big")
	c.git(work, "commit", "-q", "-m", "big")
	start := c.launch([]string{"GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1"})
	for version, branch := range map[string]string{"HTTP/1.1": "one", "HTTP/2": "two"} {
		r := start("git", "-C", work, "-c", "http.version="+version, "push", "-q", "https://"+gitHost+"/private.git", "main:"+branch)
		c.Exit(r, 0)
		clone := filepath.Join(c.Dir, branch)
		c.Exit(start("git", "-c", "http.version="+version, "clone", "-q", "-b", branch, "https://"+gitHost+"/private.git", clone), 0)
		if got, err := os.ReadFile(filepath.Join(clone, "big")); err != nil || !bytes.Equal(got, big) {
			c.Errorf("over %s: %d bytes came back (%v)", version, len(got), err)
		}
	}
	// Without being told how to show itself git asks the proxy first.
	site := "http.https://" + gitHost + "."
	r := start("env", "-u", "GIT_HTTP_PROXY_AUTHMETHOD", "GIT_TRACE_CURL=1", "GIT_TRACE_CURL_NO_DATA=1",
		"git", "-c", site+"proxyAuthMethod=anyauth", "ls-remote", "https://"+gitHost+"/private.git")
	c.Exit(r, 0)
	if !strings.Contains(r.Out, "refs/heads/two") || !strings.Contains(r.Err, "407 Proxy Authentication Required") {
		c.Errorf("the dance of the 407: %s", r.description)
	}
	c.Recorded(1, Want{"type": "deny", "code": "credentials_required"})

	asked, shown, size := 0, 0, 0
	for _, q := range u.Received() {
		switch q.Value("Authorization") {
		case "":
			asked++
		case basic("x-access-token", R):
			shown++
		default:
			c.Errorf("the forge received %q", q.Values("Authorization"))
		}
		if strings.HasSuffix(q.Target, "/git-receive-pack") {
			size = max(size, len(q.Body))
		}
	}
	if asked == 0 || shown == 0 || size < len(big) {
		c.Errorf("%d requests without and %d with the token, and a push of %d bytes", asked, shown, size)
	}
	c.Recorded(shown, Want{"type": "substitute", "secret": "github", "surface": "basic password", "host": gitHost})
}

// gitCredential: the user's own helpers know the real token, and are not asked.
func gitCredential(c *Case) {
	u := c.forge()
	user := filepath.Join(c.Dir, "user")
	if err := os.Mkdir(user, 0o700); err != nil {
		c.Fatal(err)
	}
	c.Pardon(user, "the user's own files hold the real token")
	config := "[user]\n\tname = me\n[http]\n\tproxy = http://127.0.0.1:1\n[credential]\n\thelper = \"!f() { echo username=me; echo password=" + R + "; }; f\"\n" +
		"[http \"https://" + gitHost + "\"]\n\textraHeader = \"Authorization: Basic " + strings.TrimPrefix(basic("me", R), "Basic ") + "\"\n"
	for name, text := range map[string]string{".gitconfig": config, ".git-credentials": "https://me:" + R + "@" + gitHost + "\n"} {
		if err := os.WriteFile(filepath.Join(user, name), []byte(text), 0o600); err != nil {
			c.Fatal(err)
		}
	}
	start := c.launch([]string{"HOME=" + user, "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1"})
	ask := `printf 'protocol=https\nhost=` + gitHost + `\n\n' | git credential fill; git config --get user.name; git config --get-urlmatch http.extraHeader https://` + gitHost + `/`
	r := start("sh", "-c", ask)
	for _, want := range []string{"password=" + c.P + "\n", "\nme\n"} {
		if !strings.Contains(r.Out, want) {
			c.Errorf("git credential fill does not say %q: %s", want, r.description)
		}
	}
	c.Exit(start("git", "ls-remote", "https://"+gitHost+"/private.git"), 0)
	for _, q := range u.Received() {
		if v := q.Value("Authorization"); v != "" && v != basic("x-access-token", R) {
			c.Errorf("the forge received %q", v)
		}
	}
	if n := len(u.Received()); n < 2 {
		c.Errorf("the forge received %d requests", n)
	}
}
