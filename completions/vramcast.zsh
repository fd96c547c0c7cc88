#compdef vramcast
# Completion of vramcast for zsh.

# The ids of GPUs, of the catalogue that the line names or else of the installed one.
_vramcast_gpus()
{
	local directory=${opt_args[--catalog]:-@catalog@}
	local -a ids
	ids=(${(f)"$(sed -n 's/.*"id": *"\([^"]*\)".*/\1/p' $directory/gpus.json 2>/dev/null)"})
	_describe 'GPU' ids
}

_arguments -s \
	'*--listen=[where to listen]:address and port:(127.0.0.1:8080 0.0.0.0:8080)' \
	'--threads=[event loops]:number' \
	'--max-body=[longest request body]:bytes' \
	'--max-connections=[open connections]:number' \
	'--catalog=[directory of models.json and gpus.json]:directory:_files -/' \
	'--token-file=[bearer tokens, one a line]:file:_files' \
	'*--cors-origin=[origin whose pages may call the service]:origin' \
	'--log-format=[how lines of the log are written]:format:(text json)' \
	'*--gpu=[estimate\: judge this GPU]:GPU:_vramcast_gpus' \
	'--format=[estimate\: form of the answer]:format:(json csv ndjson records table)' \
	'--check[check the catalogues and exit]' \
	'--healthcheck=[ask a running service whether it is well]:URL:(http\://127.0.0.1\:8080/readyz)' \
	'--version[print the version and exit]' \
	'--help[print a summary of the options and exit]' \
	'1:command:((estimate\:"answer one request and exit"))' \
	'2:request:_files'
