# What zsh offers for the last word of LINE, one a line: an interactive zsh on a terminal of its own is given LINE and a tab.
#     zsh -f complete.zsh FOLDER LINE        FOLDER has the completion; $TMPDIR is an empty folder to write in
zmodload zsh/zpty
cat >$TMPDIR/setup <<SETUP
PROMPT=
fpath=($1 \$fpath)
autoload -Uz compinit
compinit -u -D
zmodload zsh/complete
# Not where compadd only sorts candidates into arrays.
compadd() {
	[[ \${@[1,(i)(-|--)]} != *-(O|A|D)\ * ]] || { builtin compadd "\$@"; return }
	local -a hits
	builtin compadd -A hits "\$@"
	(( \$#hits )) && print -rl -- \$hits >>$TMPDIR/hits
	builtin compadd "\$@"
}
finish() { : >$TMPDIR/done }
comppostfuncs=(finish)
zstyle ':completion:*' insert-tab false
bindkey '^I' complete-word
: >$TMPDIR/ready
SETUP

wait_for() {
	repeat 400; do [[ -e $1 ]] && return; sleep 0.05; done
	print -u2 "no $1"
	exit 1
}

zpty shell zsh -f -i
zpty -w shell "source $TMPDIR/setup"
wait_for $TMPDIR/ready
zpty -n -w shell "$2"$'\t'
wait_for $TMPDIR/done
zpty -d shell
[[ ! -e $TMPDIR/hits ]] || sort -u $TMPDIR/hits
