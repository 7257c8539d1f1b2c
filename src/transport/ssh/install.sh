# As root, with arguments TOKEN DIGEST SIZE CONNECTION: starts the agent of that digest, and gives it
# CONNECTION (SSH_CONNECTION before sudo, sshd's or the user's word) as a text. What lies under the digest
# is started only if it has that size and digest (where the host can tell; once a boot, and again when the
# file has changed); then it says
#   have MACHINE                        -> and becomes the agent
# Where it does not lie there, or is not whole, it asks for it on stdin:
#   need SYSTEM MACHINE gzip|raw        -> the controller answers with one line:
#     gzip COUNT 0 / raw COUNT 0        COUNT bytes follow
#     use DIGEST SIZE                   look for this one instead (another machine's build)
# A file comes into being under another name, is flushed, and is moved into place whole. Other controllers do the same
# at the same time: a file that is found may be gone in the next moment, so that touch must not make it (-c).
# An agent that lies there and was looked at since the boot is started without one program more: each costs a host more
# than all the rest of this.
M=$1;
D=$2;
N=$3;
SSH_CONNECTION=$4;
export SSH_CONNECTION;
B=/var/lib/lvsprov;
A=$B/agent;
T=;
umask 022;
no() {
  [ -z "$T" ] || rm -f "$T";
  echo "$M failed $1";
  exit 1;
};
ours() {
  for X in "$@"; do
    [ -O "$X" ] || { echo "$M unsafe $X"; exit 1; };
  done;
};
sum() {
  if command -v sha256sum >/dev/null 2>&1; then
    S=$(sha256sum <"$1");
    [ "${S%% *}" = "$D" ];
  fi;
};
flush() {
  if command -v sync >/dev/null 2>&1; then
    sync "$1";
  fi;
};
whole() {
  Y=;
  if [ -O "$K" ]; then
    [ "$P" -nt "$K" ] || { read -r Y </proc/sys/kernel/arch; return 0; };
  fi;
  [ "$(wc -c <"$P")" -eq "$N" ] || return 1;
  sum "$P" || return 1;
  touch -c "$P" 2>/dev/null;
  ( : >"$K" );
  return 0;
};
while :; do
  P=$A/lvsprov-$D;
  K=/run/lvsprov-$D;
  if [ -f "$P" ]; then
    ours "$B" "$A" "$P";
    if whole 2>/dev/null; then
      echo "$M have ${Y:-$(uname -m)}";
      exec "$P" agent;
    fi;
  fi;
  G=raw;
  command -v gzip >/dev/null 2>&1 && G=gzip;
  echo "$M need $(uname -s) $(uname -m) $G";
  read -r W X Y || exit 1;
  if [ "$W" = use ]; then
    D=$X;
    N=$Y;
    continue;
  fi;
  C=$X;
  mkdir -p "$A" || no "cannot make $A";
  ours "$B" "$A";
  chmod go-w "$B" "$A" || no "cannot close $A to others";
  T=$(mktemp "$A/.new.XXXXXX") || no "cannot write in $A";
  if [ "$W" = gzip ]; then
    head -c "$C" | gzip -dc >"$T";
  else
    head -c "$C" >"$T";
  fi || no "cannot store $C bytes in $A";
  L=$(wc -c <"$T");
  [ "$L" -eq "$N" ] || no "$L of $N bytes were stored in $A";
  sum "$T" || no "what was stored in $A has another digest than what was sent";
  chmod 755 "$T" && flush "$T" && mv -f "$T" "$P" && flush "$A" || no "cannot store $P";
  T=;
  ( : >"$K" ) 2>/dev/null;
  find "$A" -type f -newer "$P" -exec touch -c {} + 2>/dev/null;
  ( cd "$A" && ls -t | grep "^lvsprov-" | grep -vxF "lvsprov-$D" | tail -n +3 | while read -r X; do rm -f "$X" "/run/$X"; done );
  find "$A" -name ".new.*" -mmin +60 -exec rm -f {} + 2>/dev/null;
done
