# Run by the login shell's `sh` as: sh -c LOGIN sh INSTALL TOKEN DIGEST SIZE
# Becomes root, then goes on with INSTALL, and gives it what sshd says of the connection as one more
# argument: sudo keeps no environment. See script.rs for what may not be written here.
S=$1;
shift;
set -- "$@" "$SSH_CONNECTION";
LC_ALL=C;
export LC_ALL;
U=$(id -u);
if [ "$U" = 0 ]; then
  eval "$S";
else
  echo "$1 user $U";
  if command -v sudo >/dev/null 2>&1; then
    exec sudo -n -- sh -c "$S" sh "$@";
  else
    echo "$1 nosudo";
    exit 1;
  fi;
fi
