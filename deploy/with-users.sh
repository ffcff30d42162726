#!/bin/sh
# Starts a Redis server that knows the users of users.acl (before 7.0: users-6.2.acl):
#   sh with-users.sh redis-server --appendonly yes
#
#   worker   `sfworker run` and the commands for people (status, doctor, ...): all keys of the prefix, and only what is sent
#   console  `sfworker console`: what it reads, and what its buttons change; only where CONSOLE_PASSWORD is set
#   web      the web side: appends jobs, reads what is said, reads results, asks for a cancellation
#   web-NAME the same for a tenant, a name in SFWORKER_TENANTS: under sf:tenant:NAME, and nothing else
#   default  whoever gives no password: may ask whether the server is ready (PING), and nothing else
#
# WORKER_PASSWORD, CONSOLE_PASSWORD, WEB_PASSWORD and WEB_PASSWORD_NAME are their passwords, of which only the hashes are written down.
# SFWORKER_PREFIX is the prefix of the keys, as the workers have it (letters, digits and {}:_-; default: sf).
set -eu

hash() { printf %s "$1" | sha256sum | cut -d " " -f 1; }

prefix=${SFWORKER_PREFIX:-sf}
# Before 7.0 there are no selectors. README.md says what that leaves open.
case $("$1" --version) in *" v=6."*) rights=users-6.2.acl ;; *) rights=users.acl ;; esac
users=$(mktemp)
rights=$(dirname "$0")/$rights
sed -e "s/#WORKER /#$(hash "${WORKER_PASSWORD:?}") /" -e "s/#WEB /#$(hash "${WEB_PASSWORD:?}") /" \
    -e "s/#CONSOLE /#$(hash "${CONSOLE_PASSWORD:-}") /" -e "s/\([~&|]\)sf:/\1$prefix:/g" "$rights" >"$users"
[ -n "${CONSOLE_PASSWORD:-}" ] || sed -i "/^user console /d" "$users"
for name in $(printf %s "${SFWORKER_TENANTS:-}" | tr , " "); do
    case $name in *[!A-Za-z0-9_]*) echo "SFWORKER_TENANTS: names of letters, digits and _" >&2; exit 1 ;; esac
    eval "password=\${WEB_PASSWORD_$name:?}"
    sed -n -e "s/^user web on #WEB /user web-$name on #$(hash "$password") /; T" \
        -e "s/\([~&|]\)sf:/\1$prefix:tenant:$name:/g; s/&task_status/\&$prefix:tenant:$name:task_status/gp" "$rights" >>"$users"
    unset "WEB_PASSWORD_$name" password
done
unset WORKER_PASSWORD CONSOLE_PASSWORD WEB_PASSWORD
exec "$@" --aclfile "$users"
