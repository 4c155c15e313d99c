{{- define "inference.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* 42 characters leave room for `-candidate` and what Kubernetes adds to a pod's name. */}}
{{- define "inference.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 42 | trimSuffix "-" }}
{{- else if contains (include "inference.name" .) .Release.Name }}
{{- .Release.Name | trunc 42 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "inference.name" .) | trunc 42 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "inference.selector" -}}
app.kubernetes.io/name: {{ include "inference.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "inference.labels" -}}
{{ include "inference.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: tokenmill
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Of one object: dict "root" . "component" NAME. The version label changes with the chart, so pods must not carry it. */}}
{{- define "inference.metadata" -}}
name: {{ .name | default (include "inference.fullname" .root) }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "inference.labels" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "inference.podLabels" -}}
{{ include "inference.selector" .root }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: tokenmill
{{- with .root.Values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* An image's reference: dict "image" VALUES "tag" DEFAULT. A digest stands before a tag. */}}
{{- define "inference.image" -}}
{{- $repository := .image.repository }}
{{- with .image.registry }}{{ $repository = printf "%s/%s" . $repository }}{{ end }}
{{- if and (not .image.digest) (eq (toString .image.tag) "latest") }}
{{- fail (printf "image.tag: `latest` of %s is another image tomorrow: name a version, or a digest" .image.repository) }}
{{- end }}
{{- if .image.digest }}
{{- printf "%s@%s" $repository .image.digest }}
{{- else }}
{{- printf "%s:%s" $repository (.image.tag | default .tag | toString) }}
{{- end }}
{{- end }}

{{- define "inference.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "inference.fullname" .) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{- define "inference.apiKeySecret" -}}
{{- .Values.auth.existingSecret | default (printf "%s-api-key" (include "inference.fullname" .)) }}
{{- end }}

{{/* The engine's settings on one track, as YAML: the candidate's differ by what `canary` says. */}}
{{- define "inference.track" -}}
{{- $track := dict "name" .track "model" .root.Values.model "engine" .root.Values.engine "image" .root.Values.image "replicas" .root.Values.replicas }}
{{- if eq .track "candidate" }}
{{- $canary := .root.Values.canary }}
{{- $_ := set $track "model" (mergeOverwrite (deepCopy .root.Values.model) (deepCopy $canary.model)) }}
{{- $_ := set $track "engine" (mergeOverwrite (deepCopy .root.Values.engine) (deepCopy $canary.engine)) }}
{{- $_ := set $track "image" (mergeOverwrite (deepCopy .root.Values.image) (deepCopy $canary.image)) }}
{{- $_ := set $track "replicas" $canary.replicas }}
{{- end }}
{{- toYaml $track }}
{{- end }}

{{- define "inference.gpus" -}}
{{- if kindIs "invalid" .root.Values.gpu.count }}
{{- mul .engine.tensorParallelSize .engine.pipelineParallelSize }}
{{- else }}
{{- .root.Values.gpu.count }}
{{- end }}
{{- end }}

{{- define "inference.graceSeconds" -}}
{{- add .Values.drain.endpointSeconds .Values.drain.longestRequestSeconds .Values.drain.shutdownSeconds }}
{{- end }}

{{/* Seconds that a start may take, by the model's size. */}}
{{- define "inference.startSeconds" -}}
{{- addf .root.Values.probes.startup.baseSeconds (mulf .root.Values.probes.startup.secondsPerGiB .model.sizeGiB) | ceil | int }}
{{- end }}

{{/* What values must agree on, in one line each. */}}
{{- define "inference.check" -}}
{{- $v := .Values }}
{{- if and (not $v.model.digest) (not $v.model.unpinned) (not (hasPrefix "hf://" $v.model.uri)) }}
{{- fail "model.digest: give the digest of the model (`tokenmill lineage models:/NAME/VERSION --json` calls it root; `python -m tokenmill.deployment.publish` prints it), or set model.unpinned=true for a trial" }}
{{- end }}
{{- if and (eq $v.model.uri "store:") (not $v.model.digest) }}
{{- fail "model.digest: `store:` names a model by its digest alone: give it" }}
{{- end }}
{{- if and $v.fetch.publicKeys (hasPrefix "hf://" $v.model.uri) }}
{{- fail "fetch.publicKeys: vLLM fetches an hf:// model by itself, and nothing verifies it: bring it into the store, or ask for no signature" }}
{{- end }}
{{- if and $v.model.unpinned (not $v.model.digest) (ne $v.cache.type "emptyDir") }}
{{- fail "cache.type: an unpinned model may not share a cache: use emptyDir, or give model.digest" }}
{{- end }}
{{- if and (eq $v.autoscaling.mode "hpa") (lt (int $v.autoscaling.minReplicas) 1) }}
{{- fail "autoscaling.minReplicas: only KEDA can go down to 0: set autoscaling.mode=keda, or at least 1" }}
{{- end }}
{{- if and (ne $v.autoscaling.mode "none") (lt (int $v.autoscaling.maxReplicas) (int $v.autoscaling.minReplicas)) }}
{{- fail "autoscaling.maxReplicas: must not be below minReplicas" }}
{{- end }}
{{- if and (ne $v.autoscaling.mode "none") (not (or $v.autoscaling.targets.requestsWaiting $v.autoscaling.targets.kvCacheUsage $v.autoscaling.targets.ttftSeconds)) }}
{{- fail "autoscaling.targets: at least one must not be 0" }}
{{- end }}
{{- if and $v.httpRoute.enabled (not $v.httpRoute.parentRefs) (not $v.httpRoute.tls.enabled) }}
{{- fail "httpRoute.parentRefs: name the Gateway that takes the route, or set httpRoute.tls.enabled=true for one of its own" }}
{{- end }}
{{- if and $v.httpRoute.enabled $v.httpRoute.tls.enabled (not (and $v.httpRoute.tls.secretName $v.httpRoute.tls.gatewayClassName $v.httpRoute.hostnames)) }}
{{- fail "httpRoute.tls: secretName, gatewayClassName and httpRoute.hostnames are needed" }}
{{- end }}
{{- if and $v.canary.enabled (not (or $v.canary.model $v.canary.engine $v.canary.image)) }}
{{- fail "canary: say what the candidate differs in: canary.model, canary.engine or canary.image" }}
{{- end }}
{{- if and $v.canary.enabled $v.canary.model.uri (not $v.canary.model.digest) (not $v.canary.model.unpinned) (not (hasPrefix "hf://" $v.canary.model.uri)) }}
{{- fail "canary.model.digest: the candidate's uri differs, so its digest must be given, too" }}
{{- end }}
{{- if and (hasPrefix "oci://" $v.model.uri) (semverCompare "<1.33.0-0" .Capabilities.KubeVersion.Version) }}
{{- fail (printf "model.uri: oci:// needs image volumes, which are on from Kubernetes 1.33; this is %s" .Capabilities.KubeVersion.Version) }}
{{- end }}
{{- end }}
