#!/bin/sh
# Installs the service from this folder: nothing is fetched, nothing outside the paths below is touched.
#
#   sudo ./install.sh                     program, units, user; says what to do next
#   sudo STORE=/data/mirror ./install.sh  the same, for a store at another place
#   sudo ./install.sh --container         the container image and its quadlet instead, for podman
#   sudo ./install.sh --uninstall         takes away what it put there; the store, /etc/mirror and the user stay
#
# PREFIX (/opt/mirror), STORE (/var/lib/mirror), PYTHON (the first that fits) and DESTDIR (for packages: files are laid out
# below it, and no user is made and no manager told) are read from the environment.
set -eu
umask 022
here=$(cd "$(dirname "$0")" && pwd)

DESTDIR=${DESTDIR:-}
PREFIX=${PREFIX:-/opt/mirror}
STORE=${STORE:-/var/lib/mirror}
BINDIR=${BINDIR:-/usr/local/bin}
LIBDIR=${LIBDIR:-/usr/local/lib} # systemd looks here after /etc, and before what packages bring
UNITS="mirror.service mirror-sync@.service mirror-sync@.timer mirror.socket"
QUADLETS=/etc/containers/systemd
MARK=share/mirror/installed

say() { printf '%s\n' "$*"; }
fail() { printf 'install: %s\n' "$*" >&2; exit 1; }
live() { [ -z "$DESTDIR" ]; }
booted() { live && [ -d /run/systemd/system ]; }

for path in "$PREFIX" "$STORE" "$BINDIR" "$LIBDIR"; do
  case $path in
    *[!A-Za-z0-9._/@+-]*) fail "$path: use letters, digits and ._@+- in paths, for units do not take all others" ;;
    /*/..|*/../*|*/./*|*//*|[!/]*) fail "$path: write the whole path, from / on" ;;
  esac
done
PREFIX=${PREFIX%/} STORE=${STORE%/}
[ -n "$PREFIX" ] && [ -n "$STORE" ] || fail "PREFIX and STORE are folders of their own, not /"
for path in "$PREFIX" "$STORE"; do
  case $path/ in
    /home/*|/root/*|/run/user/*) fail "$path: the unit does not let the service see what is below /home, /root and /run/user" ;;
  esac
done
live && [ "$(id -u)" != 0 ] && fail "this needs root: sudo $0 $*"

# Prints the first Python that fits; without one, why each that is here does not, to standard error.
find_python() {
  for name in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
    program=$(command -v "$name") || continue
    if why=$("$program" -I "$here/unpack.py" fits 2>&1); then
      echo "$program"
      return
    fi
    say "install: $program $why" >&2
  done
  return 1
}

put() { # MODE FROM TO: a unit or the like, with the paths of this installation
  mkdir -p "$(dirname "$3")"
  sed -e "s|/opt/mirror|$PREFIX|g" -e "s|/var/lib/mirror|$STORE|g" "$2" >"$3.new"
  chmod "$1" "$3.new"
  mv -f "$3.new" "$3"
}

store_drop_in() { # what systemd must let the service write to, where that is not /var/lib/mirror
  for unit in mirror.service mirror-sync@.service; do
    folder=$DESTDIR/etc/systemd/system/$unit.d
    if [ "$STORE" = /var/lib/mirror ]; then
      rm -f "$folder/store.conf"
      rmdir "$folder" 2>/dev/null || true
    else
      mkdir -p "$folder"
      cat >"$folder/store.conf" <<END
# Written by install.sh for STORE=$STORE; storage.path in mirror.yaml names the same folder.
[Unit]
RequiresMountsFor=$STORE
[Service]
StateDirectory=
ReadWritePaths=$STORE
END
    fi
  done
}

make_user() {
  if command -v systemd-sysusers >/dev/null; then
    systemd-sysusers "$LIBDIR/sysusers.d/mirror.conf"
  elif ! id mirror >/dev/null 2>&1; then
    useradd --system --user-group --home-dir "$STORE" --no-create-home --shell /usr/sbin/nologin mirror
  fi
  [ -d "$STORE" ] || install -d -m 0700 -o mirror -g mirror "$STORE"
  [ -d /etc/mirror ] || install -d -m 0750 -o root -g mirror /etc/mirror
  [ -d /etc/mirror/sets ] || install -d -m 0750 -o root -g mirror /etc/mirror/sets
}

take_share() { # man pages and completion, of this release or another: all are called mirror
  rm -f "$DESTDIR"/usr/local/share/man/man1/mirror.1 "$DESTDIR"/usr/local/share/man/man1/mirror-*.1
  for shell in bash-completion/completions/mirror zsh/site-functions/_mirror fish/vendor_completions.d/mirror.fish; do
    rm -f "$DESTDIR/usr/local/share/$shell"
  done
}

relabel() { # SELinux: files moved here keep the label of where they were made
  if command -v restorecon >/dev/null; then
    restorecon -R "$PREFIX" "$BINDIR/mirror" "$LIBDIR/systemd/system" /etc/mirror 2>/dev/null || true
  fi
}

install_program() {
  [ ! -e "$DESTDIR$PREFIX" ] || [ -e "$DESTDIR$PREFIX/$MARK" ] || [ -z "$(ls -A "$DESTDIR$PREFIX")" ] ||
    fail "$PREFIX holds other things: choose a folder that is not there yet, as PREFIX=/opt/mirror"
  mkdir -p "$(dirname "$DESTDIR$PREFIX")"
  new=$DESTDIR$PREFIX.new
  rm -rf "$new"
  "$python" -I "$here/unpack.py" into "$new" "$PREFIX" || fail "nothing was changed"
  doc=$new/share/doc/mirror
  mkdir -p "$new/share/mirror" "$doc/systemd"
  cp "$here/install.sh" "$new/share/mirror/install.sh"
  chmod 755 "$new/share/mirror/install.sh"
  cp -R "$here/README.md" "$here/CHANGELOG.md" "$here/CONTRIBUTING.md" "$here/LICENSE" "$here/docs" "$here/config" "$doc/"
  cp "$here/systemd/mirror.container" "$here/systemd/mirror.volume" "$here/systemd/container-secret.conf" "$doc/systemd/"
  cp "$here/systemd/credentials.conf" "$doc/config/"
  cp "$here/VERSION" "$new/$MARK"
  chmod -R u=rwX,go=rX "$new"
  # By renames: a program of two releases is never here, only for a moment none.
  old=$DESTDIR$PREFIX.old
  rm -rf "$old"
  [ ! -e "$DESTDIR$PREFIX" ] || mv "$DESTDIR$PREFIX" "$old"
  mv "$new" "$DESTDIR$PREFIX"
  rm -rf "$old"
  mkdir -p "$DESTDIR$BINDIR"
  ln -sfn "$PREFIX/bin/mirror" "$DESTDIR$BINDIR/mirror"
  for unit in $UNITS; do
    put 644 "$here/systemd/$unit" "$DESTDIR$LIBDIR/systemd/system/$unit"
  done
  # StateDirectory= names what is below /var/lib, whatever STORE is; where that is another, the drop-in takes it away.
  put 644 "$here/systemd/mirror.sysusers.conf" "$DESTDIR$LIBDIR/sysusers.d/mirror.conf"
  put 644 "$here/systemd/mirror.tmpfiles.conf" "$DESTDIR$LIBDIR/tmpfiles.d/mirror.conf"
  if [ -d "$here/share" ]; then # man pages, completion
    take_share
    mkdir -p "$DESTDIR/usr/local/share"
    cp -R "$here/share/." "$DESTDIR/usr/local/share/"
  fi
  store_drop_in
  if ! live; then
    mkdir -p "$DESTDIR/etc/mirror/sets"
    return 0
  fi
  make_user
  relabel
  if booted; then systemctl daemon-reload; fi
  say "mirror $(cut -d' ' -f1 "$PREFIX/$MARK") is in $PREFIX, run by $python."
  if booted && systemctl --quiet is-active mirror.service; then
    say "The service still runs the release before it. Now:  systemctl restart mirror"
  elif [ -e /etc/mirror/mirror.yaml ]; then
    say "Next:  mirror check; systemctl enable --now mirror"
  elif [ "$STORE" = /var/lib/mirror ]; then
    say "Next:  mirror init"
  else
    say "Next:  mirror init --store $STORE"
  fi
}

install_container() {
  [ -e "$here/image/mirror.oci.tar" ] || fail "this bundle brings no container image. $1"
  live || fail "a container is installed on a running host: leave DESTDIR away. $1"
  command -v podman >/dev/null || fail "there is no podman for the container image. $1"
  mkdir -p "$QUADLETS" /etc/mirror
  loaded=$(podman pull -q "oci-archive:$here/image/mirror.oci.tar") || fail "podman does not take the image"
  podman tag "$loaded" "localhost/mirror:$(cut -d' ' -f1 "$here/VERSION")" localhost/mirror:latest
  for quadlet in mirror.container mirror.volume; do
    cp "$here/systemd/$quadlet" "$QUADLETS/$quadlet"
  done
  if booted; then systemctl daemon-reload; fi
  say "The image is localhost/mirror:latest, its quadlet in $QUADLETS."
  say "Next:  $here/docs/container.md"
}

uninstall_container() {
  if booted; then systemctl --quiet stop mirror.service 2>/dev/null || true; fi
  rm -f "$QUADLETS/mirror.container" "$QUADLETS/mirror.volume"
  if booted; then systemctl daemon-reload; fi
  say "The quadlet is gone. The volume with the store, /etc/mirror and the image are still here: podman volume ls."
}

uninstall() {
  if live && [ ! -e "$PREFIX/$MARK" ] && [ -e "$QUADLETS/mirror.container" ]; then
    uninstall_container
    return
  fi
  [ -e "$DESTDIR$PREFIX/$MARK" ] || fail "there is no mirror in $DESTDIR$PREFIX: PREFIX says where it is"
  if booted; then
    for unit in mirror.socket mirror.service; do
      systemctl --quiet disable --now "$unit" 2>/dev/null || true
    done
    systemctl list-units --all --plain --no-legend 'mirror-sync@*' | while read -r unit _; do
      systemctl --quiet disable --now "$unit" 2>/dev/null || true
    done
  fi
  for unit in $UNITS; do
    rm -f "$DESTDIR$LIBDIR/systemd/system/$unit"
  done
  rm -f "$DESTDIR$LIBDIR/sysusers.d/mirror.conf" "$DESTDIR$LIBDIR/tmpfiles.d/mirror.conf"
  take_share
  drop_in=$DESTDIR/etc/systemd/system/mirror.service.d/store.conf
  left=$(sed -n 's/^ReadWritePaths=//p' "$drop_in" 2>/dev/null || true)
  left=${left:-/var/lib/mirror}
  STORE=/var/lib/mirror
  store_drop_in
  [ "$(readlink "$DESTDIR$BINDIR/mirror")" != "$PREFIX/bin/mirror" ] || rm -f "$DESTDIR$BINDIR/mirror"
  rm -rf "$DESTDIR$PREFIX" "$DESTDIR$PREFIX.new" "$DESTDIR$PREFIX.old"
  if booted; then systemctl daemon-reload; fi
  live || return 0
  say "mirror is gone. The store $left, /etc/mirror and the user mirror are still here: remove them if nobody needs them."
}

case ${1:-} in
  "")
    # Not `install_program || …`: the shell would go on after errors in there.
    if python=$(find_python); then
      install_program
    else
      install_container "Install Python 3.11, 3.12 or 3.13 (RHEL 9: dnf install python3.12)"
    fi
    ;;
  --container) install_container "Without --container the program is installed" ;;
  --uninstall) uninstall ;;
  *) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
