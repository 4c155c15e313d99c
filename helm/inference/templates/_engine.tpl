{{/* The Deployment of one track. Stable and candidate differ in model, flags, image and number of pods, and in nothing else. */}}
{{- define "inference.deployment" -}}
{{- $root := .root }}
{{- $v := .root.Values }}
{{- $track := include "inference.track" . | fromYaml }}
{{- $model := $track.model }}
{{- $engine := $track.engine }}
{{- $gpus := include "inference.gpus" (dict "root" $root "engine" $engine) | int }}
{{- $name := include "inference.fullname" $root }}
{{- $hub := hasPrefix "hf://" $model.uri }}
{{- $mountedUnpinned := and (not $model.digest) (eq (include "inference.modelKind" $model) "mounted") }}
{{- $digestKnown := not (or $hub $mountedUnpinned) }}
{{- if eq .track "candidate" }}{{ $name = printf "%s-candidate" $name }}{{ end }}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "inference.metadata" (dict "root" $root "name" $name "component" "engine") | nindent 2 }}
    tokenmill.io/track: {{ .track }}
  annotations:
    {{- include "inference.modelAnnotations" $model | nindent 4 }}
spec:
  {{- if or (eq .track "candidate") (eq $v.autoscaling.mode "none") }}
  replicas: {{ int $track.replicas }}
  {{- end }}
  {{- $surge := ternary 0 1 (and (gt $gpus 0) (ge (int $track.replicas) 2)) }}
  {{- if not (kindIs "invalid" $v.strategy.maxSurge) }}{{ $surge = $v.strategy.maxSurge }}{{ end }}
  {{- $unavailable := ternary 1 0 (eq (toString $surge) "0") }}
  {{- if not (kindIs "invalid" $v.strategy.maxUnavailable) }}{{ $unavailable = $v.strategy.maxUnavailable }}{{ end }}
  strategy:
    type: RollingUpdate
    rollingUpdate: {maxSurge: {{ $surge }}, maxUnavailable: {{ $unavailable }}}
  revisionHistoryLimit: 3
  progressDeadlineSeconds: {{ add 600 (include "inference.startSeconds" (dict "root" $root "model" $model)) (include "inference.graceSeconds" $root) }}
  selector:
    matchLabels:
      {{- include "inference.selector" $root | nindent 6 }}
      app.kubernetes.io/component: engine
      tokenmill.io/track: {{ .track }}
  template:
    metadata:
      labels:
        {{- include "inference.podLabels" (dict "root" $root "component" "engine") | nindent 8 }}
        tokenmill.io/track: {{ .track }}
      annotations:
        kubectl.kubernetes.io/default-container: engine
        checksum/config: {{ include "inference.engineFiles" $engine | cat ($root.Files.Get "files/drain.py") ($root.Files.Get "files/model_digest.py") | sha256sum }}
        {{- include "inference.modelAnnotations" $model | nindent 8 }}
        {{- with $v.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ include "inference.serviceAccount" $root }}
      automountServiceAccountToken: false
      # A Service named `vllm` would set VLLM_PORT, which vLLM takes for its own.
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ include "inference.graceSeconds" $root }}
      securityContext:
        {{- toYaml $v.podSecurityContext | nindent 8 }}
      {{- with $v.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- range $key := list "priorityClassName" "runtimeClassName" "schedulerName" }}
      {{- with get $v $key }}
      {{ $key }}: {{ . }}
      {{- end }}
      {{- end }}
      {{- range $key := list "nodeSelector" "tolerations" "affinity" }}
      {{- with get $v $key }}
      {{ $key }}:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- end }}
      {{- with $v.topologySpread }}
      topologySpreadConstraints:
        {{- range . }}
        - topologyKey: {{ .topologyKey }}
          maxSkew: {{ .maxSkew | default 1 }}
          whenUnsatisfiable: {{ .whenUnsatisfiable | default "ScheduleAnyway" }}
          labelSelector:
            matchLabels:
              {{- include "inference.selector" $root | nindent 14 }}
              tokenmill.io/track: {{ $track.name }}
        {{- end }}
      {{- end }}
      {{- if or (not $hub) $v.lora.adapters }}
      initContainers:
        {{- if not $hub }}
        - {{ include "inference.fetchContainer" (dict "root" $root "name" "model" "model" $model) | indent 10 | trim }}
        {{- end }}
        {{- range $v.lora.adapters }}
        - {{ include "inference.fetchContainer" (dict "root" $root "name" (printf "adapter-%s" .name) "model" .) | indent 10 | trim }}
        {{- end }}
      {{- end }}
      containers:
        - name: engine
          image: {{ include "inference.image" (dict "image" $track.image "tag" $root.Chart.AppVersion) }}
          imagePullPolicy: {{ $track.image.pullPolicy }}
          securityContext:
            {{- toYaml $v.containerSecurityContext | nindent 12 }}
          command:
            {{- toYaml $engine.command | nindent 12 }}
          args:
            {{- include "inference.flags" (dict "root" $root "model" $model "engine" $engine "digestKnown" $digestKnown) | trim | nindent 12 }}
          env:
            # No passwd entry has this user's number, and torch asks who it is.
            - {name: USER, value: tokenmill}
            - {name: HOME, value: /tmp}
            - {name: PYTHONPATH, value: /etc/tokenmill}
            - {name: VLLM_NO_USAGE_STATS, value: "1"}
            {{- if $digestKnown }}
            {{- if $model.digest }}
            - {name: MODEL_DIGEST, value: {{ $model.digest | quote }}}
            {{- else }}
            - {name: MODEL_DIGEST_FILE, value: /models/unpinned.digest}
            {{- end }}
            {{- end }}
            {{- if $hub }}
            {{- with $v.hubToken.existingSecret }}
            - name: HF_TOKEN
              valueFrom: {secretKeyRef: {name: {{ . }}, key: {{ $v.hubToken.secretKey }}}}
            {{- end }}
            - {name: HF_HOME, value: /models/hub}
            {{- else }}
            - {name: HF_HUB_OFFLINE, value: "1"}
            {{- end }}
            {{- if $v.auth.enabled }}
            - name: VLLM_API_KEY
              valueFrom: {secretKeyRef: {name: {{ include "inference.apiKeySecret" $root }}, key: {{ $v.auth.secretKey }}}}
            {{- end }}
            {{- if $v.lora.runtimeUpdating }}
            - {name: VLLM_ALLOW_RUNTIME_LORA_UPDATING, value: "1"}
            {{- end }}
            {{- with $engine.extraEnv }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          ports:
            - {name: http, containerPort: 8000, protocol: TCP}
          {{- $period := int $v.probes.startup.periodSeconds }}
          startupProbe:
            httpGet: {path: /health, port: http}
            periodSeconds: {{ $period }}
            timeoutSeconds: 5
            failureThreshold: {{ div (add (include "inference.startSeconds" (dict "root" $root "model" $model) | int) (sub $period 1)) $period }}
          readinessProbe:
            httpGet: {path: /health, port: http}
            {{- toYaml $v.probes.readiness | nindent 12 }}
          livenessProbe:
            httpGet: {path: /health, port: http}
            {{- toYaml $v.probes.liveness | nindent 12 }}
          lifecycle:
            preStop:
              exec:
                command: [python3, /etc/tokenmill/drain.py, "http://127.0.0.1:8000/metrics", "{{ $v.drain.endpointSeconds }}", "{{ $v.drain.longestRequestSeconds }}"]
          resources:
            {{- $resources := deepCopy $v.resources }}
            {{- if gt $gpus 0 }}
            {{- range $key := list "requests" "limits" }}
            {{- $_ := set $resources $key (merge (dict $v.gpu.resourceName (toString $gpus)) (get $resources $key | default dict)) }}
            {{- end }}
            {{- end }}
            {{- toYaml $resources | nindent 12 }}
          volumeMounts:
            - {name: models, mountPath: /models, readOnly: {{ not $hub }}}
            {{- if eq (include "inference.modelKind" $model) "mounted" }}
            - {name: mounted, mountPath: /mounted, readOnly: true}
            {{- end }}
            - {name: config, mountPath: /etc/tokenmill, readOnly: true}
            - {name: tmp, mountPath: /tmp}
            - {name: shm, mountPath: /dev/shm}
            {{- with $v.extraVolumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      volumes:
        {{- include "inference.modelVolumes" (dict "root" $root "model" $model) | trim | nindent 8 }}
        - name: config
          configMap: {name: {{ $name }}}
        - name: tmp
          emptyDir: {}
        - name: shm
          emptyDir: {medium: Memory, sizeLimit: {{ $v.shmSize }}}
        {{- with $v.extraVolumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
{{- end }}

{{- define "inference.modelAnnotations" -}}
tokenmill.io/model-uri: {{ .uri | quote }}
tokenmill.io/model-digest: {{ .digest | default "unpinned" | quote }}
{{- with .version }}
tokenmill.io/mlflow-version: {{ . | quote }}
{{- end }}
{{- end }}

{{/* What of the engine's settings is a file. */}}
{{- define "inference.engineFiles" -}}
{{- with .chatTemplate }}
chat_template.jinja: {{ toYaml . }}
{{- end }}
{{- end }}

{{- define "inference.engineConfig" -}}
{{- $track := include "inference.track" . | fromYaml }}
{{- $name := include "inference.fullname" .root }}
apiVersion: v1
kind: ConfigMap
metadata:
  {{- include "inference.metadata" (dict "root" .root "name" (ternary $name (printf "%s-candidate" $name) (eq .track "stable")) "component" "engine") | nindent 2 }}
    tokenmill.io/track: {{ .track }}
data:
  drain.py: |
    {{- .root.Files.Get "files/drain.py" | nindent 4 }}
  model_digest.py: |
    {{- .root.Files.Get "files/model_digest.py" | nindent 4 }}
  {{- with $track.engine.chatTemplate }}
  chat_template.jinja: |
    {{- . | nindent 4 }}
  {{- end }}
{{- end }}
