# Completion of vramcast for fish.

# The ids of GPUs of the installed catalogue.
function __vramcast_gpus
    sed -n 's/.*"id": *"\([^"]*\)".*/\1/p' @catalog@/gpus.json 2>/dev/null
end

complete -c vramcast -n 'not __fish_seen_subcommand_from estimate' -f
complete -c vramcast -n __fish_is_first_arg -a estimate -d 'Answer one request and exit'
complete -c vramcast -l listen -x -a '127.0.0.1:8080 0.0.0.0:8080' -d 'Where to listen'
complete -c vramcast -l threads -x -d 'Event loops'
complete -c vramcast -l max-body -x -d 'Longest request body in bytes'
complete -c vramcast -l max-connections -x -d 'Open connections'
complete -c vramcast -l catalog -x -a '(__fish_complete_directories)' -d 'Directory of models.json and gpus.json'
complete -c vramcast -l token-file -r -F -d 'Bearer tokens, one a line'
complete -c vramcast -l cors-origin -x -d 'Origin whose pages may call the service'
complete -c vramcast -l log-format -x -a 'text json' -d 'How lines of the log are written'
complete -c vramcast -l gpu -x -a '(__vramcast_gpus)' -d 'estimate: judge this GPU'
complete -c vramcast -l format -x -a 'json csv ndjson records table' -d 'estimate: form of the answer'
complete -c vramcast -l check -d 'Check the catalogues and exit'
complete -c vramcast -l healthcheck -x -a http://127.0.0.1:8080/readyz -d 'Ask a running service whether it is well'
complete -c vramcast -l version -d 'Print the version and exit'
complete -c vramcast -l help -d 'Print a summary of the options and exit'
