{{- define "edge.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 }}{{ else }}{{ printf "%s-edge" .Release.Name | trunc 40 }}{{ end }}
{{- end }}

{{- /* Takes (dict "root" $ "part" NAME) */}}
{{- define "edge.selector" -}}
app.kubernetes.io/name: edge
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "edge.labels" -}}
{{ include "edge.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{- end }}

{{- define "edge.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "edge.secretName" -}}
{{- if .Values.secrets.existingSecret }}{{ .Values.secrets.existingSecret }}{{ else }}{{ include "edge.fullname" . }}{{ end }}
{{- end }}

{{- /* The pod's own address, as it stands before a port */}}
{{- define "edge.podHost" -}}
{{- $known := list (list "IPv4") (list "IPv6") (list "IPv4" "IPv6") (list "IPv6" "IPv4") }}
{{- if not (has .Values.ipFamilies $known) }}
{{- fail "ipFamilies: [IPv4], [IPv6], or both, the pods' first one first" }}
{{- end }}
{{- first .Values.ipFamilies | eq "IPv6" | ternary "[$(POD_IP)]" "$(POD_IP)" }}
{{- end }}

{{- /* All addresses of the pod's first IP version */}}
{{- define "edge.anyHost" -}}
{{- first .Values.ipFamilies | eq "IPv6" | ternary "[::]" "0.0.0.0" }}
{{- end }}

{{- /* Configuration as variables: takes {section.key: value} */}}
{{- define "edge.config" -}}
{{- range $key, $value := . }}
- name: EDGE_{{ $key | replace "." "_" | upper }}
  {{- if kindIs "slice" $value }}
  value: {{ join "," $value | quote }}
  {{- else if and (kindIs "float64" $value) (eq $value (floor $value)) }}
  value: {{ int64 $value | quote }} # 1000000, not 1e+06
  {{- else }}
  value: {{ toString $value | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* What every process needs */}}
{{- define "edge.env" -}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
{{- if .Values.registry.existingSecret }}
- name: EDGE_REGISTRY_URL
  valueFrom: {secretKeyRef: {name: {{ .Values.registry.existingSecret }}, key: url}}
{{- else if .Values.registry.url }}
- name: EDGE_REGISTRY_URL
  value: {{ .Values.registry.url | quote }}
{{- else if .Values.redis.enabled }}
- name: EDGE_REGISTRY_URL
  value: redis://{{ include "edge.fullname" . }}-redis:6379/0
{{- else }}
{{- fail "registry.url, registry.existingSecret or redis.enabled is needed" }}
{{- end }}
- name: EDGE_REGISTRY_SECRET_FILE
  value: /etc/edge/secrets/secret
- name: EDGE_REGISTRY_PREVIOUS_SECRET_FILE
  value: /etc/edge/secrets/previous-secret
{{- end }}

{{- define "edge.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "edge.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* A process that lives is left alone; one that takes no calls gets none. */}}
{{- define "edge.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end }}

{{- /* Takes (dict "root" $ "part" NAME "values" PLACEMENT) */}}
{{- define "edge.placement" -}}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "edge.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "edge.selector" . | nindent 8 }}
{{- end }}

{{- /* So that a change of the chart's own Secret restarts the pods */}}
{{- define "edge.podAnnotations" -}}
{{- if not .root.Values.secrets.existingSecret }}
checksum/secret: {{ toYaml .root.Values.secrets | sha256sum }}
{{- end }}
{{- with .values.podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end }}
