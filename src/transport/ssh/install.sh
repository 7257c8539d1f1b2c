# As root, with arguments TOKEN DIGEST SIZE have|push CONNECTION: starts the agent of that digest, and
# gives it CONNECTION (SSH_CONNECTION before sudo, sshd's or the user's word) as a text. Where it does not
# lie there yet (or `push` says not to trust what lies there) asks for it on stdin:
#   need SYSTEM MACHINE gzip|raw        -> the controller answers with one line:
#     gzip COUNT 0 / raw COUNT 0        COUNT bytes follow
#     use DIGEST SIZE                   look for this one instead (another machine's build)
# A file comes into being under another name and is moved into place whole.
M=$1;
D=$2;
N=$3;
F=$4;
SSH_CONNECTION=$5;
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
while :; do
  P=$A/lvsprov-$D;
  if [ "$F" = have ] && [ -f "$P" ]; then
    ours "$B" "$A" "$P";
    echo "$M have";
    exec "$P" agent;
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
  if command -v sha256sum >/dev/null 2>&1; then
    S=$(sha256sum <"$T");
    [ "${S%% *}" = "$D" ] || no "what was stored in $A has another digest than what was sent";
  fi;
  chmod 755 "$T" && mv -f "$T" "$P" || no "cannot store $P";
  T=;
  F=have;
  ( cd "$A" && ls -t | grep "^lvsprov-" | tail -n +4 | while read -r X; do rm -f "$X"; done );
  find "$A" -name ".new.*" -mmin +60 -exec rm -f {} + 2>/dev/null;
done
