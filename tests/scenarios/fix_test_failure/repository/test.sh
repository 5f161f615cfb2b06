#!/bin/sh
# Tests add.sh: one line a check, exit 1 if one of them fails. Writes nothing.
set -u

passed=0
failed=0

check() {
    # check NAME INPUT EXPECTED: INPUT is a printf format, so that a newline at its end is ours to give or leave out.
    # shellcheck disable=SC2059
    got=$(printf "$2" | sh ./add.sh)
    if [ "$got" = "$3" ]; then
        passed=$((passed + 1))
        printf 'ok: %s\n' "$1"
    else
        failed=$((failed + 1))
        printf 'FAILED: %s: expected %s, got %s\n' "$1" "$3" "${got:-nothing}"
    fi
}

check 'no numbers add up to nothing' '' 0
check 'numbers add up' '10\n20\n30\n' 60
check 'a negative number is subtracted' '10\n-4\n' 6
check 'the last number counts without a newline after it' '10\n20\n30' 60

if [ "$failed" -gt 0 ]; then
    printf '%s of %s checks failed\n' "$failed" "$((passed + failed))"
    exit 1
fi
printf 'all %s checks hold\n' "$passed"
