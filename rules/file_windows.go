package rules

import "io/fs"

const nonBlocking = 0

// othersMayWrite cannot tell on Windows, where the access list of the folder
// decides; trust in the content of the file still holds.
func othersMayWrite(string, fs.FileInfo) (problem, fix string) { return "", "" }

// belongsToSystem is never known on Windows: every program is hashed.
func belongsToSystem(fs.FileInfo) bool { return false }
