#!/bin/sh
# Adds the whole numbers on standard input, one a line, and prints the sum.
set -eu

sum=0
while read -r number; do
    sum=$((sum + number))
done
printf '%s\n' "$sum"
