# Sourced by scripts/test and scripts/quickstart: one virtual environment, .venv, for both. Runs nothing by itself.
#
#   use_environment EXTRA    after it, $python has embedfill and that extra installed; quick when it already had
#   say TEXT                 one line on stderr
#
# What is installed is remembered in stamps inside .venv, written last: an interrupted set-up is done again.
# PYTHON=/path/to/python chooses the interpreter that a new environment is made of.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
venv="$root/.venv"
python="$venv/bin/python"
unset PYTHONHOME PYTHONPATH VIRTUAL_ENV

say() { printf '== %s\n' "$*" >&2; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

is_recent_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
can_make_environments() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

find_python() {
  local candidate recent=""
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
    is_recent_enough "$candidate" || continue
    recent="$candidate"
    if can_make_environments "$candidate"; then command -v "$candidate"; return; fi
  done
  if [ -n "$recent" ]; then
    fail "$recent lacks the modules venv and ensurepip. On Debian or Ubuntu: apt-get install python3-venv"
  fi
  fail "embedfill needs Python 3.11 or newer, and found none on PATH. Install one, or name it: PYTHON=/path/to/python $0"
}

# An environment knows its own path and interpreter: moved, or with another Python under it, it is made anew.
fingerprint() { "$python" -c 'import sys; print(sys.version, sys.argv[1])' "$root" 2>/dev/null; }
same() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }

# One that the user made is taken as it is, if something can be installed into it.
is_usable() {
  [ ! -e "$venv/.stamp-made" ] && is_recent_enough "$python" &&
    { "$python" -m pip --version >/dev/null 2>&1 || command -v uv >/dev/null; }
}

make_environment() {
  if same "$venv/.stamp-made" "$(fingerprint)"; then return; fi
  if is_usable; then fingerprint > "$venv/.stamp-made"; return; fi
  local base
  base="$(find_python)"
  say "making ${venv##*/} with $("$base" --version)"
  "$base" -m venv --clear "$venv" || fail "could not make $venv (see above)"
  fingerprint > "$venv/.stamp-made"
}

# $1 the extra; dev holds everything that local does. A stamp holds pyproject.toml itself: equal means installed.
is_installed() {
  local extra
  for extra in "$1" dev; do
    if cmp -s "$venv/.stamp-$extra" "$root/pyproject.toml"; then return 0; fi
  done
  return 1
}

install() {
  if command -v uv >/dev/null && uv pip install --quiet --python "$python" -e "$root[$1]" 2>/dev/null; then return; fi
  "$python" -m pip install --quiet --quiet --disable-pip-version-check --no-input -e "$root[$1]"
}

use_environment() {
  make_environment
  if is_installed "$1"; then return; fi
  say "installing embedfill[$1] into .venv (about a minute)"
  cp "$root/pyproject.toml" "$venv/.installing"
  install "$1" || fail "the installation failed (see above)"
  mv "$venv/.installing" "$venv/.stamp-$1"
}
