{{/* A Job or test pod of the image `deployer`: dict "root" "component" "command" (list) "resources". Its environment is a step's. */}}
{{- define "tokenmill.jobPod" -}}
{{- $root := .root }}
restartPolicy: {{ .restart | default "OnFailure" }}
{{ include "tokenmill.podSettings" (dict "root" $root) }}
containers:
  - name: {{ .component }}
    image: {{ include "tokenmill.image" (dict "image" $root.Values.image "tag" $root.Chart.AppVersion) }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    securityContext:
      {{- toYaml $root.Values.containerSecurityContext | nindent 6 }}
    command: {{ .command | toJson }}
    env:
      - {name: HOME, value: /tmp}
      - {name: USER, value: tokenmill}
      {{- range $variable, $key := dict "TOKENMILL_STORE" "store" "TOKENMILL_S3_ENDPOINT" "s3-endpoint" "MLFLOW_TRACKING_URI" "mlflow" }}
      - name: {{ $variable }}
        valueFrom: {configMapKeyRef: {name: {{ $root.Values.wiring.configMap }}, key: {{ $key }}}}
      {{- end }}
      {{- include "tokenmill.keys" $root | trim | nindent 6 }}
    resources:
      {{- toYaml .resources | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
volumes:
  - name: tmp
    emptyDir: {}
{{- end }}

{{/* A hook after install and upgrade, gone when it succeeded. */}}
{{- define "tokenmill.hookJob" -}}
apiVersion: batch/v1
kind: Job
metadata:
  {{- include "tokenmill.metadata" (dict "root" .root "component" .component) | nindent 2 }}
  annotations:
    helm.sh/hook: post-install,post-upgrade
    helm.sh/hook-weight: {{ .weight | quote }}
    # A Job that failed stays for its log until the next upgrade, or for ten minutes.
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  backoffLimit: 2
  ttlSecondsAfterFinished: 600
  activeDeadlineSeconds: {{ .deadline }}
  template:
    metadata:
      labels:
        {{- include "tokenmill.podLabels" (dict "root" .root "component" .component) | nindent 8 }}
    spec:
      {{- include "tokenmill.jobPod" . | nindent 6 }}
{{- end }}
