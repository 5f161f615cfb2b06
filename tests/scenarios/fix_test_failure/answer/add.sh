#!/bin/sh
# Adds the whole numbers on standard input, one a line, and prints the sum.
set -eu

sum=0
# `read` fails on a last line without a newline, yet it has read the line.
while read -r number || [ -n "$number" ]; do
    sum=$((sum + number))
done
printf '%s\n' "$sum"
