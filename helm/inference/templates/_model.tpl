{{/*
Where a model lies in the engine's container, and how it comes there.
  fetched   models:, store:, s3://, file://  → an init container puts it under /models/<digest>
  mounted   pvc://, oci://                   → mounted at /mounted and verified there
  hub       hf://                            → vLLM fetches it
*/}}
{{- define "inference.modelKind" -}}
{{- if or (hasPrefix "pvc://" .uri) (hasPrefix "oci://" .uri) }}mounted{{ else if hasPrefix "hf://" .uri }}hub{{ else }}fetched{{ end }}
{{- end }}

{{- define "inference.modelPath" -}}
{{- $kind := include "inference.modelKind" . }}
{{- if eq $kind "hub" }}
{{- trimPrefix "hf://" .uri | splitList "@" | first }}
{{- else if hasPrefix "pvc://" .uri }}
{{- printf "/mounted/%s" (trimPrefix "pvc://" .uri | splitList "/" | rest | join "/") | trimSuffix "/" }}
{{- else if eq $kind "mounted" }}/mounted
{{- else }}
{{- printf "/models/%s" (.digest | default "unpinned") }}
{{- end }}
{{- end }}

{{- define "inference.fetchContainer" -}}
{{- $root := .root }}
name: {{ .name }}
image: {{ include "inference.image" (dict "image" $root.Values.fetch.image "tag" $root.Chart.AppVersion) }}
imagePullPolicy: {{ $root.Values.fetch.image.pullPolicy }}
securityContext:
  {{- toYaml $root.Values.containerSecurityContext | nindent 2 }}
command: [python, -m, tokenmill.deployment.fetch]
args:
  {{- if eq (include "inference.modelKind" .model) "mounted" }}
  - file://{{ include "inference.modelPath" .model }}
  {{- else }}
  - {{ .model.uri | quote }}
  - --into=/models
  {{- end }}
  {{- if .model.digest }}
  - --digest={{ .model.digest }}
  {{- else if ne (include "inference.modelKind" .model) "mounted" }}
  - --link=/models/unpinned
  {{- end }}
env:
  - {name: HOME, value: /tmp}
  - {name: USER, value: tokenmill}
  {{- if regexMatch "^(models:|store:|s3:)" .model.uri }}
  {{- range $variable, $key := dict "TOKENMILL_STORE" "store" "TOKENMILL_S3_ENDPOINT" "s3-endpoint" "MLFLOW_TRACKING_URI" "mlflow" }}
  - name: {{ $variable }}
    valueFrom: {configMapKeyRef: {name: {{ $root.Values.store.configMap }}, key: {{ $key }}, optional: {{ eq $key "mlflow" }}}}
  {{- end }}
  {{- range $variable, $key := dict "AWS_ACCESS_KEY_ID" "access-key" "AWS_SECRET_ACCESS_KEY" "secret-key" }}
  - name: {{ $variable }}
    valueFrom: {secretKeyRef: {name: {{ $root.Values.store.secret }}, key: {{ $key }}}}
  {{- end }}
  {{- end }}
  {{- if and $root.Values.fetch.publicKeys (eq .name "model") }}
  - {name: TOKENMILL_PUBLIC_KEY, value: {{ $root.Values.fetch.publicKeys | quote }}}
  {{- end }}
  {{- with $root.Values.fetch.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
resources:
  {{- toYaml $root.Values.fetch.resources | nindent 2 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  {{- if eq (include "inference.modelKind" .model) "mounted" }}
  - {name: mounted, mountPath: /mounted, readOnly: true}
  {{- else }}
  - {name: models, mountPath: /models}
  {{- end }}
{{- end }}

{{- define "inference.modelVolumes" -}}
{{- $cache := .root.Values.cache }}
{{- $size := $cache.size | default (printf "%dMi" (mulf .model.sizeGiB 1280 | ceil | int)) }}
- name: models
  {{- if eq $cache.type "hostPath" }}
  hostPath: {path: {{ $cache.hostPath }}, type: DirectoryOrCreate}
  {{- else if eq $cache.type "pvc" }}
  persistentVolumeClaim: {claimName: {{ $cache.existingClaim | default (printf "%s-models" (include "inference.fullname" .root)) }}}
  {{- else }}
  emptyDir: {sizeLimit: {{ $size }}}
  {{- end }}
{{- if hasPrefix "pvc://" .model.uri }}
- name: mounted
  persistentVolumeClaim: {claimName: {{ trimPrefix "pvc://" .model.uri | splitList "/" | first }}, readOnly: true}
{{- else if hasPrefix "oci://" .model.uri }}
- name: mounted
  image: {reference: {{ trimPrefix "oci://" .model.uri | quote }}, pullPolicy: {{ .root.Values.image.pullPolicy }}}
{{- end }}
{{- end }}
