{{- /* The pod of a relay, for a Deployment and a DaemonSet alike */}}
{{- define "edge.relay.pod" -}}
{{- $relay := .Values.relay }}
{{- $part := dict "root" . "part" "relay" "values" $relay }}
{{- $onNode := eq $relay.kind "DaemonSet" }}
metadata:
  labels: {{- include "edge.labels" $part | nindent 4 }}
    edge/metrics: "true"
  {{- with include "edge.podAnnotations" $part | trim }}
  annotations: {{- . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "edge.fullname" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- if $onNode }}
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  {{- end }}
  terminationGracePeriodSeconds: {{ add $relay.preStopSeconds 15 }}
  securityContext: {{- include "edge.podSecurity" . | nindent 4 }}
  {{- with include "edge.placement" $part | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- if not $onNode }}
  {{- include "edge.spread" $part | nindent 2 }}
  {{- end }}
  containers:
    - name: relay
      image: {{ include "edge.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [relay]
      env: {{- include "edge.env" . | nindent 8 }}
        - name: EDGE_RELAY_BIND
          value: $(POD_IP):{{ $relay.port }}
        - name: EDGE_RELAY_INTERNAL_BIND
          value: $(POD_IP):{{ $relay.internalPort }}
        {{- if $relay.advertise }}
        - name: EDGE_RELAY_ADVERTISE
          value: {{ $relay.advertise | quote }}
        {{- end }}
        - name: EDGE_HTTP_BIND
          value: {{ $onNode | ternary "$(POD_IP)" "0.0.0.0" }}:{{ $relay.httpPort }}
        - name: EDGE_RELAY_HTTP_URL
          value: http://$(POD_IP):{{ $relay.httpPort }}
        {{- with $relay.region }}
        - name: EDGE_RELAY_REGION
          value: {{ . }}
        {{- end }}
        {{- include "edge.config" (merge (deepCopy $relay.config) .Values.config) | nindent 8 }}
      ports:
        - {name: media, containerPort: {{ $relay.port }}, protocol: UDP}
        - {name: internal, containerPort: {{ $relay.internalPort }}, protocol: UDP}
        - {name: http, containerPort: {{ $relay.httpPort }}, protocol: TCP}
      {{- include "edge.probes" . | nindent 6 }}
      lifecycle:
        preStop: {sleep: {seconds: {{ $relay.preStopSeconds }}}}
      resources: {{- toYaml $relay.resources | nindent 8 }}
      securityContext: {{- include "edge.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - {name: secrets, mountPath: /etc/edge/secrets, readOnly: true}
  volumes:
    - name: secrets
      secret:
        secretName: {{ include "edge.secretName" . }}
        defaultMode: 0440
        items:
          - {key: secret, path: secret}
          - {key: previous-secret, path: previous-secret}
{{- end }}
