{{- define "tokenmill.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* 42 characters leave room for what the components' names add. */}}
{{- define "tokenmill.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 42 | trimSuffix "-" }}
{{- else if contains (include "tokenmill.name" .) .Release.Name }}
{{- .Release.Name | trunc 42 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "tokenmill.name" .) | trunc 42 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "tokenmill.selector" -}}
app.kubernetes.io/name: {{ include "tokenmill.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tokenmill.labels" -}}
{{ include "tokenmill.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: tokenmill
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Of one object: dict "root" . "component" NAME, and "name" where it is not the component's. */}}
{{- define "tokenmill.metadata" -}}
name: {{ .name | default (printf "%s-%s" (include "tokenmill.fullname" .root) .component) }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "tokenmill.labels" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "tokenmill.clusterMetadata" -}}
name: {{ .name }}
labels:
  {{- include "tokenmill.labels" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "tokenmill.podLabels" -}}
{{ include "tokenmill.selector" .root }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: tokenmill
{{- end }}

{{/* An image's reference: dict "image" VALUES "tag" DEFAULT. A digest stands before a tag. */}}
{{- define "tokenmill.image" -}}
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

{{/* What every pod has: dict "root" . "account" NAME. */}}
{{- define "tokenmill.podSettings" -}}
serviceAccountName: {{ include "tokenmill.fullname" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- range $key := list "imagePullSecrets" "nodeSelector" "tolerations" "affinity" }}
{{- with get $.root.Values $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with .root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- define "tokenmill.secret" -}}
{{- .Values.store.existingSecret | default .Values.wiring.secret }}
{{- end }}

{{- define "tokenmill.endpoint" -}}
{{- if .Values.objectStore.enabled }}
{{- printf "http://%s-object-store.%s.svc:8333" (include "tokenmill.fullname" .) .Release.Namespace }}
{{- else }}
{{- .Values.store.endpoint }}
{{- end }}
{{- end }}

{{- define "tokenmill.mlflowUrl" -}}
{{- if .Values.mlflow.url }}
{{- .Values.mlflow.url }}
{{- else if .Values.mlflow.enabled }}
{{- printf "http://%s-mlflow.%s.svc:%v" (include "tokenmill.fullname" .) .Release.Namespace .Values.mlflow.service.port }}
{{- end }}
{{- end }}

{{- define "tokenmill.pushgatewayUrl" -}}
{{- if .Values.pushgateway.url }}
{{- .Values.pushgateway.url }}
{{- else if .Values.pushgateway.enabled }}
{{- printf "http://%s-pushgateway.%s.svc:9091" (include "tokenmill.fullname" .) .Release.Namespace }}
{{- end }}
{{- end }}

{{- define "tokenmill.storeUri" -}}
{{- printf "s3://%s/%s" .Values.store.bucket (.Values.store.prefix | default .Values.team) | trimSuffix "/" }}
{{- end }}

{{/* How steps are computed here, as TOKENMILL_EXECUTION takes it; `serving` is short for what `deploy` needs. */}}
{{- define "tokenmill.execution" -}}
{{- $execution := deepCopy .Values.execution }}
{{- with .Values.serving }}
{{- if .enabled }}
{{- $deploy := dict "target" "helm" "release" .release "namespace" $.Release.Namespace "values" .values }}
{{- range $option, $value := $deploy }}
{{- $_ := set $execution (printf "deployment.deploy.execution.%s" $option) $value }}
{{- end }}
{{- end }}
{{- end }}
{{- if $execution }}{{ $execution | toJson }}{{ end }}
{{- end }}

{{/* The keys of the store, as variables of a container. */}}
{{- define "tokenmill.keys" -}}
{{- range $variable, $key := dict "AWS_ACCESS_KEY_ID" "access-key" "AWS_SECRET_ACCESS_KEY" "secret-key" }}
- name: {{ $variable }}
  valueFrom: {secretKeyRef: {name: {{ include "tokenmill.secret" $ }}, key: {{ $key }}}}
{{- end }}
{{- end }}

{{/* What values must agree on, in one line each. */}}
{{- define "tokenmill.check" -}}
{{- $v := .Values }}
{{- if and $v.objectStore.enabled (or $v.store.endpoint $v.store.existingSecret) }}
{{- fail "store: objectStore.enabled brings its own endpoint and keys: leave store.endpoint and store.existingSecret empty" }}
{{- end }}
{{- if not (or $v.objectStore.enabled $v.store.existingSecret (and $v.store.accessKey $v.store.secretKey)) }}
{{- fail "store: give the keys of the object store as store.existingSecret (or store.accessKey and store.secretKey), or set objectStore.enabled=true for a trial" }}
{{- end }}
{{- if and $v.mlflow.enabled $v.mlflow.url }}
{{- fail "mlflow.url: an existing MLflow is named, so set mlflow.enabled=false" }}
{{- end }}
{{- if and $v.mlflow.enabled (eq $v.mlflow.database.kind "postgresql") (not $v.mlflow.database.existingSecret) }}
{{- fail "mlflow.database.existingSecret: name the Secret that holds PostgreSQL's URI" }}
{{- end }}
{{- if and $v.serving.enabled (not $v.serviceAccounts.deployment.create) }}
{{- fail "serving.enabled: steps then need the rights of serviceAccounts.deployment: set serviceAccounts.deployment.create=true" }}
{{- end }}
{{- if and $v.pushgateway.enabled $v.pushgateway.url }}
{{- fail "pushgateway.url: an existing Pushgateway is named, so set pushgateway.enabled=false" }}
{{- end }}
{{- end }}
