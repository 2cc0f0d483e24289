#!/usr/bin/env bash
# Audits each line of TARGETS with OPTIONS, and ends with the worst exit code.
set -uo pipefail
worst=0
eval "options=($(printf '%s' "${OPTIONS:-}" | python -c 'import shlex, sys; print(shlex.join(shlex.split(sys.stdin.read())))'))"
while IFS= read -r target; do
  [ -n "$target" ] || continue
  klbench audit "$target" ${options[@]+"${options[@]}"}
  code=$?
  [ "$code" -le "$worst" ] || worst=$code
done <<<"$TARGETS"
exit "$worst"
