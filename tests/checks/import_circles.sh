#!/bin/sh
# Fails if source files import each other in a circle. Ignores test modules.
# Usage: tests/checks/import_circles.sh [DIRECTORY]
set -eu
cd "${1:-.}"

find src -name '*.rs' | LC_ALL=C sort | awk '
    # The file of a module path below a directory: that of the longest prefix of the path that has one.
    function file_of(base, path,    parts, count, i, found, at) {
        count = split(path, parts, "::")
        found = (base "/mod.rs" in files) ? base "/mod.rs" : ""
        for (i = 1; i <= count; i++) {
            base = base "/" parts[i]
            if (base ".rs" in files) found = base ".rs"
            else if (base "/mod.rs" in files) found = base "/mod.rs"
            else break
        }
        return found
    }
    function note(from, to) {
        if (to != "" && to != from) print from, to
    }
    # Notes the imports of one path, which may end with a list in braces.
    function follow(from, base, path,    open, list, parts, count, i) {
        open = index(path, "{")
        if (!open) { note(from, file_of(base, path)); return }
        list = substr(path, open + 1)
        path = substr(path, 1, open - 1)
        gsub(/[{} \t]/, "", list)
        count = split(list, parts, ",")
        for (i = 1; i <= count; i++) if (parts[i] != "") note(from, file_of(base, path parts[i]))
    }
    { files[$0] = 1; order[++total] = $0 }
    END {
        for (n = 1; n <= total; n++) {
            file = order[n]
            root = file ~ /^src\/bin\// ? "src/bin/p2p-gossip" : "src"
            dir = file; sub(/\/[^\/]*$/, "", dir)
            parent = dir
            if (file ~ /\/mod\.rs$/) sub(/\/[^\/]*$/, "", parent)
            code = ""; skip = 0
            while ((getline line < file) > 0) {
                if (line ~ /^#\[cfg\(test\)\]/) { skip = 1; continue }
                if (skip) { if (line ~ /^(pub[^ ]* )?mod .*\{/) break; if (line ~ /;[ \t]*$/) skip = 0; continue }
                sub(/\/\/.*/, "", line)
                gsub(/pub\(in [^)]*\)/, "", line)
                if (file ~ /\/(mod|lib|main)\.rs$/) sub(/use [a-z_]+::/, "use self::&", line)
                sub(/use self::use /, "use self::", line)
                code = code " " line
            }
            close(file)
            while (match(code, /(crate|super|self)::[A-Za-z0-9_:]+(\{[^;]*\})?/)) {
                path = substr(code, RSTART, RLENGTH)
                code = substr(code, RSTART + RLENGTH)
                base = path ~ /^crate/ ? root : path ~ /^self/ ? dir : parent
                sub(/^(crate|super|self)::/, "", path)
                while (path ~ /^super::/) { sub(/^super::/, "", path); sub(/\/[^\/]*$/, "", base) }
                follow(file, base, path)
            }
        }
    }' | LC_ALL=C sort -u | {
    if ! circle=$(tsort 2>&1 >/dev/null); then
        echo 'check: files import each other in a circle:' >&2
        printf '%s\n' "$circle" | sed -n 's/^tsort: \(src.*\)/  \1/p' >&2
        exit 1
    fi
}
