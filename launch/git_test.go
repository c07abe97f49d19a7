package launch

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// git runs git as a command of a session of home.
func git(t *testing.T, files *Files, home, dir, input string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(need(t, "git"), args...)
	cmd.Dir = dir
	cmd.Env, _ = Environ(EnvConfig{
		Environ: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1"},
		Files:   files, ProxyURL: "http://127.0.0.1:43210",
	})
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// gitHome is a home whose git knows the real token, in every way it can.
func gitHome(t *testing.T) string {
	t.Helper()
	home := t.TempDir()
	own := `[user]
	name = Somebody
[credential]
	helper = "!echo username=me; echo password=realrealreal;:"
[credential "https://git.allowed.test"]
	helper = "!echo username=me; echo password=realrealreal;:"
	username = me
[http]
	proxy =
[http "https://git.allowed.test"]
	proxy = http://elsewhere:1
	extraHeader = Authorization: Basic realrealreal
`
	if err := os.WriteFile(filepath.Join(home, ".gitconfig"), []byte(own), 0o600); err != nil {
		t.Fatal(err)
	}
	xdg := filepath.Join(home, ".config", "git")
	if err := os.MkdirAll(xdg, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(xdg, "config"), []byte("[user]\n\temail = me@example.com\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return home
}

const gitPlaceholder = "ghp_zstandin_abcdefghijklmnopqrstuvwxyz"

func gitFiles(t *testing.T, home string) *Files {
	t.Helper()
	return writeFiles(t, FilesConfig{
		Environ: []string{"HOME=" + home},
		Hosts:   []string{"git.allowed.test", "*.wild.test"},
		GitHosts: []GitCredential{
			{Host: "git.allowed.test", Placeholder: gitPlaceholder},
			{Host: "git.allowed.test:8443", Username: "it's \"me\" $HOME \\", Placeholder: gitPlaceholder},
			{Host: "*.wild.test", Placeholder: gitPlaceholder},
		},
	})
}

func TestGitAnswersWithThePlaceholderNotWithTheRealToken(t *testing.T) {
	t.Parallel()
	home := gitHome(t)
	files := gitFiles(t, home)
	repository := t.TempDir()
	if out, err := git(t, files, home, repository, "", "init", "-q"); err != nil {
		t.Fatal(out)
	}
	// A helper of the repository is asked only after ours, so never.
	if out, err := git(t, files, home, repository, "", "config", "credential.helper", "!echo password=realrealreal;:"); err != nil {
		t.Fatal(out)
	}
	for input, username := range map[string]string{
		"protocol=https\nhost=git.allowed.test\n\n":                   "x-access-token",
		"protocol=https\nhost=git.allowed.test\npath=a/b.git\n\n":     "x-access-token",
		"url=https://git.allowed.test/a/b.git\n\n":                    "x-access-token",
		"protocol=https\nhost=git.allowed.test:8443\n\n":              "it's \"me\" $HOME \\",
		"protocol=https\nhost=sub.wild.test\n\n":                      "x-access-token",
		"protocol=https\nhost=git.allowed.test\nusername=someone\n\n": "x-access-token",
	} {
		out, err := git(t, files, home, repository, input, "credential", "fill")
		if err != nil || !strings.Contains(out, "password="+gitPlaceholder+"\n") || !strings.Contains(out, "username="+username+"\n") || strings.Contains(out, "realrealreal") {
			t.Errorf("%q: %v, %s", input, err, out)
		}
		for _, verb := range []string{"approve", "reject"} {
			if out, err := git(t, files, home, repository, out+"\n", "credential", verb); err != nil || out != "" {
				t.Errorf("%s: %v, %s", verb, err, out)
			}
		}
	}
	// Other hosts are the user's own affair.
	out, err := git(t, files, home, repository, "protocol=https\nhost=other.test\n\n", "credential", "fill")
	if err != nil || !strings.Contains(out, "realrealreal") {
		t.Errorf("other host: %v, %s", err, out)
	}
}

func TestGitUsesTheProxyOverTheUsersOwnConfiguration(t *testing.T) {
	t.Parallel()
	home := gitHome(t)
	files := gitFiles(t, home)
	dir := t.TempDir()
	for args, want := range map[string]string{
		"config user.name":  "Somebody",
		"config user.email": "me@example.com",
		"config http.proxy": "http://127.0.0.1:43210",
		"config --get-urlmatch http.proxy https://git.allowed.test/a/b":          "http://127.0.0.1:43210",
		"config --get-urlmatch http.proxy https://x.wild.test/a":                 "http://127.0.0.1:43210",
		"config --get-urlmatch http.sslCAInfo https://git.allowed.test/":         files.Path(bundleFile),
		"config --get-urlmatch http.extraHeader https://git.allowed.test/a/b":    "",
		"config --get-urlmatch http.proxyAuthMethod https://other.test/anything": "basic",
	} {
		out, err := git(t, files, home, dir, "", strings.Fields(args)...)
		if err != nil || strings.TrimRight(out, "\n") != want {
			t.Errorf("git %s: %v, %q, want %q", args, err, out, want)
		}
	}
}

func TestGitConfigurationNamedByTheUserIsIncluded(t *testing.T) {
	t.Parallel()
	for environment, want := range map[string][]string{
		"GIT_CONFIG_GLOBAL=/x/config":  {"/x/config"},
		"GIT_CONFIG_GLOBAL=":           nil,
		"GIT_CONFIG_GLOBAL=relative":   nil,
		"XDG_CONFIG_HOME=/xdg":         {"/xdg/git/config", "/home/u/.gitconfig"},
		"XDG_CONFIG_HOME=not/absolute": {"/home/u/.config/git/config", "/home/u/.gitconfig"},
		"X=":                           {"/home/u/.config/git/config", "/home/u/.gitconfig"},
	} {
		got := userGitConfigs(parseEnviron([]string{"HOME=/home/u", environment}))
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s: got %q, want %q", environment, got, want)
		}
	}
}
