{{- /* Where a relay listens on a port: takes (list $ PORT) */}}
{{- define "edge.relay.bind" -}}
{{- $root := first . }}
{{- $families := $root.Values.ipFamilies }}
{{- if gt (len $families) 1 }}
{{- range $index, $family := $families }}
{{- if $index }},{{ end }}{{ eq $family "IPv6" | ternary "[::]" "0.0.0.0" }}:{{ last $ }}
{{- end }}
{{- else }}
{{- include "edge.podHost" $root }}:{{ last . }}
{{- end }}
{{- end }}

{{- /* Names of the ports that transceivers send to: one for each public address, UDP first */}}
{{- define "edge.relay.internals" -}}
{{- $names := list "internal" "internal-2" "internal-3" "internal-4" }}
{{- slice $names 0 (mul (len .Values.ipFamilies) (gt (int .Values.relay.tcp.port) 0 | ternary 2 1) | int) | join " " }}
{{- end }}

{{- /* The pod of a relay, for a Deployment and a DaemonSet alike */}}
{{- define "edge.relay.pod" -}}
{{- $relay := .Values.relay }}
{{- $part := dict "root" . "part" "relay" "values" $relay }}
{{- $onNode := eq $relay.kind "DaemonSet" }}
{{- $host := include "edge.podHost" . }}
{{- $low := or (lt (int $relay.port) 1024) (and $relay.tcp.port (lt (int $relay.tcp.port) 1024)) }}
{{- if and $onNode (gt (len .Values.ipFamilies) 1) }}
{{- fail "ipFamilies: relays on the nodes' own network take one, as each would have to be told its other address" }}
{{- end }}
{{- if and $onNode $low }}
{{- fail "relay.port, relay.tcp.port: below 1024 a node's own ports are not for a process without rights" }}
{{- end }}
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
    {{- if $low }}
    sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: "0"}] # of the pod's network alone
    {{- end }}
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
          value: {{ include "edge.relay.bind" (list . $relay.port) | quote }}
        - name: EDGE_RELAY_INTERNAL_BIND
          value: {{ printf "%s:%v" $host $relay.internalPort | quote }}
        {{- with $relay.tcp.port }}
        - name: EDGE_RELAY_TCP_BIND
          value: {{ include "edge.relay.bind" (list $ .) | quote }}
        {{- end }}
        {{- with $relay.tcp.advertise }}
        - name: EDGE_RELAY_TCP_ADVERTISE
          value: {{ . | quote }}
        {{- end }}
        {{- if $relay.advertise }}
        - name: EDGE_RELAY_ADVERTISE
          value: {{ $relay.advertise | quote }}
        {{- end }}
        - name: EDGE_HTTP_BIND
          value: {{ printf "%s:%v" ($onNode | ternary $host (include "edge.anyHost" .)) $relay.httpPort | quote }}
        - name: EDGE_RELAY_HTTP_URL
          value: http://{{ $host }}:{{ $relay.httpPort }}
        {{- with $relay.region }}
        - name: EDGE_RELAY_REGION
          value: {{ . }}
        {{- end }}
        {{- include "edge.config" (merge (deepCopy $relay.config) .Values.config) | nindent 8 }}
      ports:
        - {name: media, containerPort: {{ $relay.port }}, protocol: UDP}
        {{- with $relay.tcp.port }}
        - {name: media-tcp, containerPort: {{ . }}, protocol: TCP}
        {{- end }}
        {{- range $number, $name := include "edge.relay.internals" . | splitList " " }}
        - {name: {{ $name }}, containerPort: {{ add $relay.internalPort $number }}, protocol: UDP}
        {{- end }}
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
