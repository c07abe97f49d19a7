package netns

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Settings of the kernel that keep users from namespaces.
const (
	settingLimit    = "/proc/sys/user/max_user_namespaces"
	settingAppArmor = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
	settingDebian   = "/proc/sys/kernel/unprivileged_userns_clone"
)

// lacking says why a step failed, as far as the system tells.
func lacking(step string, err error) *LackingError {
	l := &LackingError{Step: step, Cause: err}
	denied := errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)
	switch {
	case errors.Is(err, unix.ENOSPC):
		l.Why = fmt.Sprintf("the limit of namespaces is reached (user.max_user_namespaces is %s)", setting(settingLimit))
		l.Fix = "sudo sysctl user.max_user_namespaces=15000"
	case denied && setting(settingDebian) == "0":
		l.Why = "the system keeps user namespaces from users (kernel.unprivileged_userns_clone is 0)"
		l.Fix = "sudo sysctl kernel.unprivileged_userns_clone=1"
	case denied && setting(settingAppArmor) == "1":
		l.Why = "AppArmor keeps user namespaces from programs without a profile (kernel.apparmor_restrict_unprivileged_userns is 1)"
		l.Fix = profileCommand()
	case denied && step == "mount /proc":
		l.Why = "parts of /proc are covered here, as in a container, so it cannot be mounted anew"
		l.Fix = "docker run --security-opt systempaths=unconfined …, or standin run outside of the container"
	case (denied || errors.Is(err, unix.ENOSYS)) && filtered():
		l.Why = "system calls are filtered here (seccomp), as in a container without user namespaces"
		l.Fix = "docker run --security-opt seccomp=unconfined …, or standin run outside of the container"
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL) && strings.Contains(step, "namespaces"):
		l.Why = "the kernel has no such thing: it needs Linux 5.12 with user, network, pid and IPC namespaces"
	case denied:
		l.Why = "this user may not, and nothing says what forbids it; a security module or a chroot could"
	}
	return l
}

// setting reads a setting of the kernel, "" if it has none of that name.
func setting(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// filtered reports whether a filter of system calls is on this process.
func filtered() bool {
	mode, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0)
	return err == nil && mode != unix.SECCOMP_MODE_DISABLED
}

// profileCommand loads an AppArmor profile that lets this program make user
// namespaces.
func profileCommand() string {
	self, err := os.Executable()
	if err != nil {
		self = "/usr/local/bin/standin"
	}
	return fmt.Sprintf(`printf 'abi <abi/4.0>,\nprofile standin "%s" flags=(unconfined) {\n  userns,\n}\n' | sudo tee /etc/apparmor.d/standin && sudo apparmor_parser -r /etc/apparmor.d/standin`, self)
}
