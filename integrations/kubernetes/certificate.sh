#!/bin/bash
# A certificate for the webhooks where no cert-manager runs: puts it into the secret vramcast-tls, and its authority into the
# webhook configurations. Again before it ends (a year), then: kubectl -n vramcast rollout restart deployment vramcast
#     certificate.sh        after: kubectl apply -k base; asks the cluster of kubectl's context
set -euo pipefail

namespace=vramcast
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 366 -subj /CN=vramcast-webhooks \
	-addext "subjectAltName=DNS:vramcast.$namespace.svc,DNS:vramcast.$namespace.svc.cluster.local" \
	-keyout tls.key -out tls.crt 2>/dev/null
kubectl create secret tls vramcast-tls --namespace "$namespace" --cert tls.crt --key tls.key --dry-run=client -o yaml |
	kubectl apply -f -

# Every webhook of a configuration has a caBundle of its own.
for kind in mutatingwebhookconfiguration validatingwebhookconfiguration; do
	count=$(kubectl get "$kind" vramcast -o 'jsonpath={.webhooks[*].name}' | wc -w)
	patch=
	for ((i = 0; i < count; i++)); do
		patch+="${patch:+,}{\"op\":\"add\",\"path\":\"/webhooks/$i/clientConfig/caBundle\",\"value\":\"$(base64 -w0 tls.crt)\"}"
	done
	kubectl patch "$kind" vramcast --type=json -p "[$patch]"
done
