{{/* vLLM's arguments on one track: what is zero, empty or null stays vLLM's own default. */}}
{{- define "inference.flags" -}}
{{- $engine := .engine }}
- --model={{ include "inference.modelPath" .model }}
- --served-model-name
{{- range .model.servedNames }}
- {{ . | quote }}
{{- end }}
{{- if hasPrefix "hf://" .model.uri }}
- --revision={{ splitList "@" .model.uri | last }}
{{- end }}
- --host=0.0.0.0
- --port=8000
- --tensor-parallel-size={{ int $engine.tensorParallelSize }}
- --pipeline-parallel-size={{ int $engine.pipelineParallelSize }}
- --dtype={{ $engine.dtype }}
- --kv-cache-dtype={{ $engine.kvCacheDtype }}
- --seed={{ int64 $engine.seed }}
{{- range $flag, $value := dict "max-model-len" $engine.maxModelLen "max-num-seqs" $engine.maxNumSeqs "max-num-batched-tokens" $engine.maxNumBatchedTokens "kv-cache-memory-bytes" $engine.kvCacheMemoryBytes }}
{{- if $value }}
- --{{ $flag }}={{ int64 $value }}
{{- end }}
{{- end }}
{{- if not $engine.kvCacheMemoryBytes }}
- --gpu-memory-utilization={{ $engine.gpuMemoryUtilization }}
{{- end }}
{{- range $flag, $value := dict "quantization" $engine.quantization "reasoning-parser" $engine.reasoningParser }}
{{- with $value }}
- --{{ $flag }}={{ . }}
{{- end }}
{{- end }}
{{- if ne $engine.runner "auto" }}
- --runner={{ $engine.runner }}
{{- end }}
{{- range $flag, $value := dict "enable-prefix-caching" $engine.prefixCaching "enable-chunked-prefill" $engine.chunkedPrefill }}
{{- if not (kindIs "invalid" $value) }}
- --{{ if not $value }}no-{{ end }}{{ $flag }}
{{- end }}
{{- end }}
{{- if $engine.enforceEager }}
- --enforce-eager
{{- end }}
{{- if $engine.trustRemoteCode }}
- --trust-remote-code
{{- end }}
{{- if not $engine.accessLog }}
- --disable-uvicorn-access-log
{{- end }}
{{- with $engine.toolCallParser }}
- --enable-auto-tool-choice
- --tool-call-parser={{ . }}
{{- end }}
{{- if $engine.chatTemplate }}
- --chat-template=/etc/tokenmill/chat_template.jinja
{{- end }}
{{- if .digestKnown }}
- --middleware=model_digest.ModelDigest
{{- end }}
{{- with .root.Values.lora.adapters }}
- --enable-lora
- --max-lora-rank={{ int $.root.Values.lora.maxRank }}
- --max-loras={{ int $.root.Values.lora.maxLoras }}
- --lora-modules
{{- range . }}
- {{ .name }}=/models/{{ .digest }}
{{- end }}
{{- end }}
{{- range $engine.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end }}
