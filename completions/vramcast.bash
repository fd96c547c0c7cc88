# Completion of vramcast for bash.

# The ids of GPUs, of the catalogue that the line names or else of the installed one.
_vramcast_gpus()
{
	local directory=@catalog@ i
	for ((i = 1; i < COMP_CWORD - 1; i++)); do
		[[ ${COMP_WORDS[i]} != --catalog ]] || directory=${COMP_WORDS[i + 1]}
	done
	sed -n 's/.*"id": *"\([^"]*\)".*/\1/p' "$directory/gpus.json" 2>/dev/null
}

_vramcast()
{
	local current=${COMP_WORDS[COMP_CWORD]} option=${COMP_WORDS[COMP_CWORD - 1]} choices= files=
	COMPREPLY=()
	# bash takes the = of --option=value for a word.
	[[ $current != = ]] || current=
	[[ $option != = ]] || option=${COMP_WORDS[COMP_CWORD - 2]}

	case $option in
	--gpu) choices=$(_vramcast_gpus) ;;
	--format) choices='json csv ndjson records table' ;;
	--log-format) choices='text json' ;;
	--catalog) files=-d ;;
	--token-file) files=-f ;;
	--healthcheck) choices=http://127.0.0.1:8080/readyz ;;
	--listen) choices='127.0.0.1:8080 0.0.0.0:8080' ;;
	--threads | --max-body | --max-connections | --cors-origin) return ;;
	*)
		choices='--listen --threads --max-body --max-connections --catalog --token-file --cors-origin
			--log-format --gpu --format --check --healthcheck --version --help'
		if [[ $COMP_CWORD = 1 ]]; then
			choices+=' estimate'
		elif [[ ${COMP_WORDS[1]} = estimate && $current != -* ]]; then
			files=-f
		fi ;;
	esac
	if [[ $files ]]; then
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen "$files" -- "$current")
	else
		mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$current")
	fi
}

complete -F _vramcast vramcast
